"""The transfer command: what it plays, what it takes from others, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluations import rl, transfer
from evaluations.control.setup import ControlSetup
from evaluations.experiment.contract import Unit
from evaluations.experiment.names import NamedPolicy
from evaluations.language.setup import TextSetup
from evaluations.matrix.columns import columns
from evaluations.matrix.config import TransferConfig
from evaluations.matrix.experiment import check
from evaluations.matrix.plan import Attached, EpisodeSizes, EqualPlan, PromptSizes
from evaluations.vision.setup import VideoSetup

SEEDS = ["--seeds", "1", "--wandb", "disabled"]


def rows_in(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "rows.jsonl").read_text().splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


def a_plan(sizes: Any, **told: Any) -> EqualPlan:
    rivals = (NamedPolicy.of("window"), NamedPolicy.of("sink_window"))
    namms = (Attached("at · a", "sequence"), Attached("at · b", "source"))
    options = {"shares": (0.25,), "own": True, **told}
    return EqualPlan("at", (NamedPolicy.of("full"),), rivals, namms, (1,), sizes=sizes, **options)


def prompts(*tokens: int) -> list[dict[str, Any]]:
    return [
        {"identity": {"modality": "text"}, "seed": 1, "prompts": [{"id": n, "tokens": t} for n, t in enumerate(tokens)]}
    ]


def test_everybody_is_given_one_size_which_follows_from_the_full_cache() -> None:
    """256 tokens, updates every 64: a budget of 64 is held at the end; one of 63 would hold less than a quarter."""
    plan = a_plan(PromptSizes(interval=64, protected_last=1))
    known, whole = plan.main(lambda unit: None)
    assert not whole
    assert [(unit.target, unit.spec.label, unit.role) for unit in known] == [
        ("at", "full", "reference"), ("at · a", "namm:sequence", "free"), ("at · b", "namm:source", "free"),
    ]  # fmt: skip
    units, whole = plan.main(lambda unit: prompts(256, 256))
    assert whole
    sized = {(unit.target, unit.spec.label): unit for unit in units if unit.share is not None}
    assert set(sized) == {
        ("at · a", "namm:sequence(keep=0.25)"), ("at · b", "namm:source(keep=0.25)"), ("at", "window"),
        ("at", "sink_window"),
    }  # fmt: skip
    assert {unit.budget for unit in sized.values() if unit.spec.is_rival} == {64}
    assert sized["at", "window"].facts() == {"role": "given", "matched_to": None, "share": 0.25}
    assert len(units) == plan.most_cells() == 7


def test_heads_may_be_equal() -> None:
    units, _ = a_plan(PromptSizes(64, 1), heads=("equal",), own=False).main(lambda unit: prompts(256))
    ranking = next(unit for unit in units if unit.target == "at · a")
    assert ranking.budget == 64
    assert ranking.spec.option("threshold", None) == -1e9


def test_rivals_may_have_the_same_freedom_and_each_division_is_a_line() -> None:
    free = (NamedPolicy.of("keydiff"),)
    plan = a_plan(PromptSizes(64, 1), heads=("free", "equal"), free_rivals=free, own=False)
    units, _ = plan.main(lambda unit: prompts(256))
    [rival] = [unit for unit in units if unit.spec.name.base == "keydiff"]
    assert (rival.spec.label, rival.role, rival.budget, rival.share) == ("keydiff(keep=0.25)", "free", None, 0.25)
    assert sum(unit.target == "at · a" for unit in units) == 2
    assert len(units) == plan.most_cells() == 8


def test_keydiff_has_a_namm_s_freedom_where_it_is_a_rival_and_nobody_says_otherwise() -> None:
    def free(**told: Any) -> list[str]:
        return [policy.label for policy in check(TransferConfig(**told))[1]]

    assert free() == free(quick=True) == ["keydiff"]
    assert free(policy=("window",)) == free(free_rivals=()) == free(kept=()) == []
    assert free(policy=("window",), free_rivals=("tova",)) == ["tova"]


def test_an_episode_s_size_is_a_mean_over_its_steps() -> None:
    full = [{"identity": {"modality": "control"}, "seed": 1, "episodes": [{"reset_seed": 0, "length": 100}]}]
    budget = EpisodeSizes(interval=48).budget(0.25, full, 0)
    seen = [3 * step + 2 for step in range(100)]
    held = [min(tokens // 48 * 48, budget) + tokens % 48 for tokens in seen]
    less = [min(tokens // 48 * 48, budget - 1) + tokens % 48 for tokens in seen]
    assert sum(less) < 0.25 * sum(seen) <= sum(held)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kept", "1.5"], "between 0 and 1"),
        (["--kept", "0.2", "0.2"], "different parts"),
        (["--target", "vidoe"], "Did you mean 'video'"),
        (["--target", "speech=x"], "Unknown target"),
        (["--policy", "windov"], "Did you mean 'window'"),
        (["--policy", "snapkv(schedule=prompt)"], "A stream has no prompt"),
        (["--namm", "text-v33"], "Did you mean 'text-v3'"),
        (["--statistics", "target"], "video does neither: drop it"),
        (["--reuse", "nowhere"], "expected the rows of an experiment"),
        (["--heads", "free", "free"], "each once"),
        (["--free-rivals", "adakv"], "can judge by a threshold"),
        (["--tasks"], "must name at least one"),
        (["--lengths", "0"], "1 or more"),
        (["--target", "memory", "--tasks", "pairs"], "names none: drop it, or add text"),
        (["--intervals", "64", "50"], "found 50; use 48 or 64"),
        (["--seeds", "1", "1"], "different numbers"),
    ],
)
def test_mistakes_are_told_before_anything_is_played(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transfer.main([*arguments, "--wandb", "disabled", "--out", str(tmp_path / "out")]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_columns_are_the_commands_own_experiments() -> None:
    found = columns(TransferConfig(target=("text", "memory", "control=hopper-medium,tmaze-150", "video"), episodes=3))
    assert [column.name for column in found] == ["text", "memory", "control=hopper-medium,tmaze-150", "video"]
    assert found[2].title == "control: hopper-medium,tmaze-150"


def test_the_short_form_takes_what_is_named() -> None:
    """A bug would be to cut down what somebody asked for."""
    named = columns(TransferConfig(target=("text", "real"), quick=True, tasks=("pairs", "copy"), prompts=9))
    for column in named:
        assert isinstance(column.setup, TextSetup)
        assert column.setup.exams.tasks == ("pairs", "copy")
        assert (column.setup.exams.prompts, column.setup.exams.benchmark.samples) == (9, 9)
    [short] = columns(TransferConfig(target=("text",), quick=True))
    assert isinstance(short.setup, TextSetup)
    assert (short.setup.exams.tasks, short.setup.exams.prompts) == (("pairs",), 4)
    [maze, video] = columns(TransferConfig(target=("control=tmaze-150,tmaze-200", "video"), quick=True, clips=7))
    assert isinstance(maze.setup, ControlSetup)
    assert isinstance(video.setup, VideoSetup)
    assert (maze.setup.targets.env, video.setup.videos.clips) == (("tmaze-150", "tmaze-200"), 7)
    [maze, video] = columns(TransferConfig(target=("memory", "video"), quick=True))
    assert isinstance(maze.setup, ControlSetup)
    assert isinstance(video.setup, VideoSetup)
    assert (len(maze.setup.targets.env), video.setup.videos.clips) == (1, 4)
    [other] = columns(TransferConfig(target=("real=models/gemma",)))
    assert isinstance(other.setup, TextSetup)
    assert (other.title, other.setup.model.model) == ("text: gemma", "models/gemma")
    assert other.setup.exams.answers == "likelihood"
    [long] = columns(TransferConfig(target=("real",), lengths=(512, 1024)))
    assert isinstance(long.setup, TextSetup)
    assert long.setup.exams.context_tokens == long.setup.exams.benchmark.lengths == (512, 1024)


@pytest.mark.slow
def test_rows_of_rl_are_reused_and_the_matrix_is_made_of_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same cell has the same key in both commands; what is there is not played again, what lacks is."""
    namm = "checkpoints/namm/text-v3"
    played = ["--env", "tmaze-150", "--namm", namm, "--policy", "full", "namm:sequence", "--episodes", "2", *SEEDS]
    assert rl.main([*played, "--no-video", "--out", str(tmp_path / "rl")]) == 0
    asked = ["--namm", "text-v3", "--target", "control=tmaze-150", "--policy", "window", "--episodes", "2", *SEEDS]
    asked += ["--heads", "equal", "--workers", "1", "--out", str(tmp_path / "transfer")]
    assert transfer.main([*asked, "--reuse", str(tmp_path / "rl")]) == 0
    told = capsys.readouterr().out
    theirs, ours = rows_in(tmp_path / "rl"), rows_in(tmp_path / "transfer")
    assert theirs.keys() < ours.keys()
    assert all(ours[key] == theirs[key] for key in theirs)
    assert {row["policy"] for row in ours.values()} == {
        "full", "namm:sequence", "namm:sequence(threshold=-1000000000.0)", "window",
    }  # fmt: skip
    config = json.loads((tmp_path / "transfer" / "config.json").read_text())
    assert config["columns"] == [{"name": "control=tmaze-150", "title": "control: tmaze-150", "targets": ["tmaze-150"]}]
    assert list(config["lines"]) == ["text-v3"]
    assert "text-v3, equal heads at 25%" in told
    for name in ("report.html", "summary.md", "matrix.png"):
        assert (tmp_path / "transfer" / name).stat().st_size > 500
    before = (tmp_path / "transfer" / "rows.jsonl").read_bytes()
    assert transfer.main(asked) == 0, "again: everything is there"
    assert (tmp_path / "transfer" / "rows.jsonl").read_bytes() == before


@pytest.mark.slow
def test_text_and_video_are_sized_on_what_is_not_scored(tmp_path: Path) -> None:
    asked = [
        "--namm",
        "text-v3",
        "--target",
        "text",
        "video",
        "--policy",
        "window",
        "--quick",
        "--workers",
        "1",
        *SEEDS,
    ]
    assert transfer.main([*asked, "--out", str(tmp_path)]) == 0
    sized = [row for row in rows_in(tmp_path).values() if "keep" in row["policy"]]
    assert {row["identity"]["modality"] for row in sized} == {"text", "video"}
    for row in sized:
        assert row["memory"]["sized"]["kept_fraction"] == pytest.approx(0.25, abs=0.08)
        assert row["metrics"]["kept_fraction"] == pytest.approx(0.25, abs=0.1)
        assert row["memory"]["share"] == 0.25
        assert "sizing" in row["identity"]


def test_a_unit_says_whose_share_it_is() -> None:
    assert "share" not in Unit("at", NamedPolicy.of("full"), (0,), "reference").facts()
