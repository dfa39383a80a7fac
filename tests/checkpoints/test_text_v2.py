"""The recipe of text-v2 says what its rows say; the shipped NAMM is the one of its card and does what the card says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints.recipes import text_v2, text_v2_judge
from checkpoints.recipes.text_v2_card import AGAIN, control_verdict, origin, text_verdicts
from checkpoints.recipes.text_v2_judge import (
    AT_BUDGET,
    AT_HEADS,
    AT_SIZE,
    EARLIER,
    FULL,
    OURS,
    JudgeConfig,
    judge_text,
    largest_holding,
    tabulate,
)
from evaluations.analysis.estimates import Estimate, PairedDifference
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.evolve import EvolveConfig, load_source
from evaluations.tasks.recall.tasks import TASKS, test_seed
from modalities.language.recall import recall
from namm import NAMM
from namm.errors import ConfigError
from namm.files import file_sha256
from namm.policies import make_policy

FOLDER = text_v2.TextV2Config().out
TWO = replace(JudgeConfig(), rivals=("window", "h2o"), allocated=("random",), matching_prompts=4)


def rows(**policies: list[float]) -> list[dict[str, Any]]:
    """Rows of two tasks, on which each policy recalls alike and holds 20 slots."""
    return [
        {
            "policy": name.replace("_", "-").replace("-at-", "@"), "task": task, "recall": scores, "slots": 20.0,
            "head_slots": [[30.0, 10.0]],
        }
        for name, scores in policies.items()
        for task in ("pairs", "copy")
    ]  # fmt: skip


def table(ours: list[float], earlier: list[float], window: list[float], random: list[float]) -> list[dict[str, Any]]:
    found = rows(
        text_v2=ours, text_v1=earlier, text_v1_at_size=[0.7] * 8, text_v1_at_budget=[0.9] * 8,
        text_v1_at_heads=[1.0] * 8, full=[1.0] * 8, window=window, h2o=[0.0] * 8, random_at_heads=random,
    )  # fmt: skip
    return tabulate(found, tokens=100, interval=50)


def test_a_line_is_the_mean_over_tasks_and_differences_are_paired_on_prompts() -> None:
    better = [0.9, 0.8, 0.9, 0.8, 0.9, 0.8, 0.9, 0.8]
    lines = table(better, [score - 0.1 for score in better], [0.2] * 8, [0.5] * 8)
    ours = next(line for line in lines if (line["policy"], line["task"]) == (OURS, "all"))
    assert ours["recall"]["value"] == pytest.approx(0.85)
    assert ours["of_full_cache"] == pytest.approx(0.85)
    assert ours["kept_fraction"] == pytest.approx(0.2)
    assert ours["kept_by_head"] == [[0.3, 0.1]]
    earlier = next(line for line in lines if (line["policy"], line["task"]) == (EARLIER, "all"))
    assert earlier["ours_minus"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})  # no noise left when paired


@pytest.mark.parametrize(
    ("earlier", "window", "random", "said"),
    [
        (0.5, 0.1, 0.1, ["recall more", "ahead of every rival of its size on every task", "ahead of random@heads"]),
        (1.0, 0.95, 1.0, ["recall LESS", "BEHIND window on pairs, window on copy, ahead in all else",
                          "BEHIND random@heads"]),
        (0.9, 0.9, 0.9, ["recall not told apart", "not told apart from window on pairs, window on copy, ahead in all",
                         "not told apart from random@heads"]),
    ],
)  # fmt: skip
def test_verdicts_follow_the_intervals(earlier: float, window: float, random: float, said: list[str]) -> None:
    lines = table([0.9] * 8, [earlier] * 8, [window] * 8, [random] * 8)
    ours = next(line for line in lines if (line["policy"], line["task"]) == (OURS, "all"))
    against, at_size, at_budget, at_heads, *others = text_verdicts(TWO, lines, ours)
    for words, verdict in zip(said, [against, *others], strict=True):
        assert words in verdict
    assert against.startswith("against text-v1 1.00x the slots")
    assert at_size.startswith("against text-v1@size 1.00x the slots, recall more")
    assert at_budget.startswith("against text-v1@budget 1.00x the slots, recall not told apart")
    assert at_heads.startswith("against text-v1@heads 1.00x the slots, recall LESS")


def test_a_threshold_holds_no_fewer_slots_than_wanted_wherever_it_lies() -> None:
    for wanted in (3.0, 50.0, 90.0):  # below 0, near 0, far above
        found = largest_holding(lambda threshold: 60.0 - threshold, wanted)
        assert found <= 60.0 - wanted
        assert found == pytest.approx(60.0 - wanted, abs=0.1)
    with pytest.raises(ConfigError, match="in reach"):
        largest_holding(lambda threshold: 5.0, 4.0)


def test_a_control_verdict_names_who_is_behind_who_is_not_told_apart_and_who_is_ahead() -> None:
    def policy(name: str, score: float, paired: PairedDifference | None) -> PolicySummary:
        estimate = Estimate(score, score, score)
        row = {"identity": {"modality": "control"}}
        return PolicySummary("maze", name, (row,), estimate, estimate, None, paired)

    def paired(value: float, p_value: float) -> PairedDifference:
        return PairedDifference(Estimate(value, value - 1, value + 1), p_value, 96)

    ours = policy("namm:source", 90.0, None)
    rivals = (
        policy("window", 50.0, paired(40.0, 0.001)),
        policy("h2o_age", 90.0, paired(0.0, 1.0)),
        policy("keydiff", 99.0, paired(-9.0, 0.001)),
    )
    verdict = control_verdict(TargetSummary("maze", "maze", (ours, *rivals), ours, None))
    assert verdict == "namm:source 90.0, ahead of window; not told apart from h2o_age; BEHIND keydiff"


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_rivals_hold_no_fewer_slots_and_finished_conditions_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_v2_judge, "TASKS", ("pairs", "copy"))  # as many as rows can be confused with
    config = replace(TWO, namm=TWO.earlier, conditions=((96, 48),), prompts=2, rivals=("window",), matching_prompts=2)
    lines = judge_text(config, tmp_path)
    sizes = {line["policy"]: line["kept_fraction"] for line in lines if line["task"] == "pairs"}
    assert sizes[FULL] == 1.0
    assert sizes[OURS] == sizes[EARLIER]  # the same NAMM here
    assert sizes[AT_SIZE] == pytest.approx(sizes[OURS], abs=8 / 96)  # chosen on other prompts
    for rival in (AT_BUDGET, AT_HEADS, "window", "random@heads"):
        assert sizes[OURS] <= sizes[rival] < sizes[OURS] + 1.5 / 96
    before = (tmp_path / "96-48.json").stat().st_mtime_ns
    assert judge_text(config, tmp_path) == lines
    assert (tmp_path / "96-48.json").stat().st_mtime_ns == before
    judge_text(replace(config, prompts=1, rivals=(), allocated=()), tmp_path)  # other settings: not what was finished
    assert (tmp_path / "96-48.json").stat().st_mtime_ns != before


def test_stages_continue_one_another_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = text_v2.evolutions(replace(text_v2.TextV2Config(), work=tmp_path))
    for name, stage in text_v2.STAGES.items():
        assert runs[name].start == (None if stage.after is None else tmp_path / stage.after / "namm")
        assert runs[name].fitness == stage.fitness
    monkeypatch.setattr(text_v2, "STAGES", dict(reversed(text_v2.STAGES.items())))
    with pytest.raises(ConfigError, match="must come before it"):
        text_v2.evolutions(text_v2.TextV2Config())


def test_card_and_weights_agree() -> None:
    card = json.loads((FOLDER / "card.json").read_text())
    readme = (FOLDER / "README.md").read_text()
    assert card["sha256"] == file_sha256(FOLDER / "model.safetensors")
    assert card["sha256"] in readme
    assert card["namm_sha256"] == NAMM.from_pretrained(FOLDER).sha256()
    stages = json.loads(json.dumps({name: asdict(stage) for name, stage in text_v2.STAGES.items()}))
    assert card["stages"] == stages
    assert card["validation"][card["chosen"]]["score"] >= card["choice"]["least_score"]
    assert "\n".join(origin(FOLDER / AGAIN, card["sha256"])) in readme


def test_only_the_weights_that_were_made_by_hand_are_said_to_be(tmp_path: Path) -> None:
    """A run that writes its weights beside the file of another was one command all the same."""
    assert "by hand" in " ".join(origin(FOLDER / AGAIN, file_sha256(FOLDER / "model.safetensors")))
    for path in (FOLDER / AGAIN, tmp_path / AGAIN):
        assert origin(path, "other weights") == ["The command ran all of them."]


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize(("tokens", "interval"), [(288, 48), (800, 80)])
def test_on_other_prompts_lengths_and_intervals_it_does_what_its_card_says(tokens: int, interval: int) -> None:
    """Test seed 7, lengths and intervals that no card has: fewer slots than text-v1 for about its recall."""
    torch.set_num_threads(1)
    model = load_source(EvolveConfig().model, torch.float32)
    namms = {name: NAMM.from_pretrained(FOLDER.parent / name) for name in (OURS, EARLIER)}
    score: dict[str, list[float]] = {}
    kept: dict[str, list[float]] = {}
    for task in TASKS.values():
        prompts = task.sample(8, tokens, test_seed(7))
        asked = prompts.context, prompts.question, prompts.target
        full = float(recall(model, make_policy("full"), *asked).accuracy.mean())
        for name, namm in namms.items():
            result = recall(model, make_policy("namm", namm=namm, interval=interval), *asked)
            score.setdefault(name, []).append(float(result.accuracy.mean()) / full)
            kept.setdefault(name, []).append(result.kept_fraction)
        budget = int(np.ceil(kept[OURS][-1] * tokens - tokens % interval))
        for rival in ("window", "random", "h2o", "l2_norm"):
            seed = 0 if rival == "random" else None
            found = recall(model, make_policy(rival, interval=interval, budget=budget, seed=seed), *asked)
            assert float(found.accuracy.mean()) / full < score[OURS][-1] - 0.2, (task.name, rival)
    assert np.mean(score[OURS]) >= 0.96
    assert np.mean(score[OURS]) >= np.mean(score[EARLIER]) - 0.015
    assert np.mean(kept[OURS]) <= 0.92 * np.mean(kept[EARLIER])
