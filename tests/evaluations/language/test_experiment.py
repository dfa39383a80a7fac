"""A text experiment: what is in its rows, that it goes on after a kill, and that how it is read changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from evaluations import text
from evaluations.analysis.summary import summarise
from evaluations.experiment.names import rivals
from evaluations.language import calibration
from evaluations.language.calibration import TargetStatistics
from evaluations.language.experiment import play_experiment
from evaluations.language.plan import NAMES, chosen
from evaluations.language.setup import task_names
from evaluations.language.trace import kept_of
from evaluations.text import TextConfig
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError

TIMES = ("finished", "seconds", "versions")
MEASURED = ("prefill_seconds", "decode_seconds", "policy_seconds", "bytes_peak", "bytes_mean", "state_bytes_peak",
            "state_bytes_mean", "evicted")  # fmt: skip
"""Differ with the clock and with which prompts share a batch."""


def played(config: TextConfig) -> list[dict[str, Any]]:
    """The rows, without the report."""
    return play_experiment(config, Console(quiet=True)) or []


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how prompts were read."""
    metrics = {name: value for name, value in row["metrics"].items() if name not in MEASURED}
    return json.loads(json.dumps({name: value for name, value in row.items() if name not in TIMES})) | {
        "metrics": json.loads(json.dumps(metrics))
    }


def assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        ours, theirs = told(ours), told(theirs)
        assert ours["metrics"].pop("head_slots") == theirs["metrics"].pop("head_slots")
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-4)
        for prompt, other in zip(ours.pop("prompts"), theirs.pop("prompts"), strict=True):
            assert [prompt.pop(name, None) for name in ("id", "document")] == [
                other.pop(name, None) for name in ("id", "document")
            ]
            assert prompt == pytest.approx(other, rel=1e-4)
        ours["score"], theirs["score"] = round(ours["score"], 3), round(theirs["score"], 3)
        ours.pop("metrics"), theirs.pop("metrics")
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_every_registered_policy_reads_every_kind_of_task_at_the_namms_size(
    config: TextConfig, longbench: Path
) -> None:
    everyone = ("full", "namm:sequence", *rivals(), "h2o@heads")
    tasks = ("pairs", "needles/multivalue", "corpus", "longbench/qasper")
    rows = text.run(replace(config, policy=everyone, tasks=tasks, prompts=2, data=str(longbench)))
    assert {(row["policy"], row["task"]) for row in rows} == {
        (policy, task) for policy in everyone for task in
        ("pairs", "needles/multivalue", "corpus/perplexity", "corpus/next-line", "longbench/qasper")
    }  # fmt: skip
    namms = {row["task"]: row["metrics"]["slots_mean"] for row in rows if row["policy"] == "namm:sequence"}
    for row in rows:
        measured = row["metrics"]
        assert measured["kept_fraction"] == pytest.approx(
            np.mean([prompt["slots"] / prompt["tokens"] for prompt in row["prompts"]])
        )
        if row["policy"] == "full":
            assert (measured["kept_fraction"], measured["evicted"], row["memory"]["role"]) == (1.0, 0.0, "reference")
            continue
        assert row["memory"]["asked_to_evict"]
        assert measured["evicted"] > 0
        if row["policy"] != "namm:sequence":
            assert namms[row["task"]] - 0.01 <= measured["slots_mean"] < namms[row["task"]] + 1.01, row["policy"]
            assert row["memory"]["matched_to"] == "namm:sequence"
    for row in rows:
        assert row["identity"]["model_sha256"]
        assert row["protocol"]["updates"] == "every 32 tokens"
        held = kept_of(row).mean(axis=-1) * len(row["trace"]["pieces"])
        first = next(prompt for prompt in row["prompts"] if prompt["id"] == row["trace"]["id"])
        assert held.mean() == pytest.approx(first["slots"])
    page = (config.out / "report.html").read_text()
    assert "% of reference" in page
    assert "</script> left" not in page
    assert "corpus/perplexity" in (config.out / "summary.md").read_text()


def _unmarked(prompt: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prompt.items() if name != "document"}


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_sharing_batching_and_chunks_change_nothing(config: TextConfig, longbench: Path, tmp_path: Path) -> None:
    """Two prompts share a document; alone, in chunks or side by side they are answered alike, draws included."""
    config = replace(config, tasks=("longbench/qasper", "corpus/next-line"), data=str(longbench))
    together = played(config)
    alone = played(replace(config, out=tmp_path / "alone", share=False, batch=1, chunk=17))
    assert_same(together, alone)
    for row in together:  # what a prompt is about is told by its text, for intervals draw documents
        marks = [prompt.get("document") for prompt in row["prompts"]]
        assert len(set(marks)) == (2 if row["task"] == "longbench/qasper" else 1)
        assert marks[0] == marks[1]
        assert (marks[0] is None) == (row["task"] == "corpus/next-line")
    (asked,) = (target for target in summarise(together) if target.task == "longbench/qasper")
    assert asked.get("window").versus_namm.pairs == 2  # documents, of three questions
    earlier = [{**row, "prompts": [_unmarked(prompt) for prompt in row["prompts"]]} for row in together]
    (asked,) = (target for target in summarise(earlier) if target.task == "longbench/qasper")
    assert asked.get("window").versus_namm.pairs == 3  # rows of before are read as they were


def test_a_killed_run_goes_on_at_the_batch_it_was_in(config: TextConfig, tmp_path: Path) -> None:
    config = replace(config, prompts=4, batch=2)
    whole = played(config)
    lines = (config.out / "rows.jsonl").read_text().splitlines(keepends=True)
    (config.out / "rows.jsonl").write_text("".join(lines[:2]))
    journals = {json.loads(line)["key"]: config.out / "answers" / f"{json.loads(line)['key']}.jsonl" for line in lines}
    half_read, unread = (journals[json.loads(line)["key"]] for line in lines[2:])
    unread.unlink()
    first, second = half_read.read_text().splitlines(keepends=True)
    half_read.write_text(first + second[: len(second) // 2])
    again = played(config)
    assert_same(whole, again)
    assert half_read.read_text().startswith(first)
    assert (config.out / "rows.jsonl").read_text().startswith("".join(lines[:2]))
    before = (config.out / "rows.jsonl").read_text()
    played(config)
    assert (config.out / "rows.jsonl").read_text() == before


def test_a_size_may_be_given_instead_of_a_namm(config: TextConfig, longbench: Path, tmp_path: Path) -> None:
    given = replace(config, policy=("full", "window", "h2o"), budget=24)
    for row in played(given):
        if row["policy"] != "full":
            assert {prompt["slots"] for prompt in row["prompts"]} == {24 + 95 % 32 + 1 - 32}  # 96 tokens: three updates
            assert row["memory"]["role"] == "given"
    fraction = replace(
        config, policy=("full", "window"), kept_fraction=0.3, tasks=("longbench/qasper",), data=str(longbench),
        out=tmp_path / "fraction",
    )  # fmt: skip
    row = played(fraction)[1]
    for prompt in row["prompts"]:
        budget = round(0.3 * prompt["tokens"])
        assert prompt["slots"] == min(budget, prompt["tokens"] // 32 * 32) + prompt["tokens"] % 32


def test_judging_once_after_the_context_is_a_protocol_of_its_own(config: TextConfig) -> None:
    rows = played(replace(config, schedule="prompt", context_tokens=(90,)))
    for row in rows:
        assert {prompt["tokens"] for prompt in row["prompts"]} == {80}  # whole steps of sixteen
        assert row["protocol"]["updates"] == "once, after the context"
    sizes = {row["policy"]: row["metrics"]["slots_mean"] for row in rows}
    assert sizes["namm:sequence"] <= sizes["window"] < sizes["namm:sequence"] + 1


def test_a_policy_that_was_asked_to_evict_and_did_not_is_reported(config: TextConfig) -> None:
    text.run(replace(config, policy=("full", "window"), budget=96))
    told = (config.out / "summary.md").read_text()
    assert "window was asked to forget and evicted nothing: read it as full." in told


def test_names_of_policies_and_tasks(config: TextConfig) -> None:
    policies, match = chosen(("full", "namm", "h2o", "h2o"), None, False)
    assert [spec.label for spec in policies] == ["full", "namm:source", "h2o"]
    assert match == "namm:source"
    assert chosen(("window",), None, True)[1] is None
    assert len(NAMES) == len(set(NAMES))
    assert task_names(("recall", "recall/pairs", "longbench/qasper,trec")) == [
        "pairs", "passkey", "copy", "variables", "longbench/qasper", "longbench/trec",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="Did you mean 'pairs'"):
        task_names(("pears",))
    with pytest.raises(ConfigError, match="need a size"):
        chosen(("window",), None, False)
    with pytest.raises(ConfigError, match="@heads take the size of a NAMM"):
        chosen(("window@heads",), None, True)


def test_the_targets_own_statistics_are_measured_on_as_much_as_it_can_place(model_folder: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=838, n_embd=16, n_layer=1, n_head=2, n_positions=150)).eval()
    statistics = TargetStatistics(AutoTokenizer.from_pretrained(model_folder))
    assert statistics.described(model, 32)["tokens"] == 150
    found = statistics.of(model, NAMM(), 32)
    assert bool((found.of_layer(0)[1] > 0).any())


@pytest.mark.slow
def test_a_namm_is_sized_by_text_that_nobody_is_asked_about(
    config: TextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "TOKENS", 161)
    policies = ("namm:sequence(keep=0.3)", "namm:sequence(keep=0.7)")
    rows = {row["policy"]: row for row in played(replace(config, policy=("full", *policies)))}
    found = [rows[written]["memory"]["sized"] for written in policies]
    assert [each["kept_fraction"] for each in found] == pytest.approx([0.3, 0.7], abs=0.1)
    assert found[0]["threshold"] > found[1]["threshold"]
    assert rows[policies[0]]["metrics"]["kept_fraction"] < rows[policies[1]]["metrics"]["kept_fraction"]


def test_the_released_arithmetic_needs_its_own_interval(config: TextConfig) -> None:
    with pytest.raises(ConfigError, match="--intervals 512"):
        played(replace(config, policy=("full", "namm:released")))
