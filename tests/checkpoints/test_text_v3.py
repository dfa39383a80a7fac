"""Evolution from a hindsight start, in small: what is saved is what validation preferred, and a stop costs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.recipes import text_v3
from checkpoints.recipes.hindsight_card import write_card
from checkpoints.recipes.text_v3 import TextV3Config, begun_as, main
from evaluations.tasks.lessons import Course
from namm import NAMM
from namm.errors import ConfigError

SHIPPED = Path(checkpoints.__file__).parent / "namm"


def test_a_run_goes_on_as_it_began(tmp_path: Path) -> None:
    start = NAMM.from_pretrained(SHIPPED / "text-v4")
    config = TextV3Config(start=SHIPPED / "text-v4", work=tmp_path, generations=3)
    begun_as(config, start)
    begun_as(replace(config, generations=9, out=tmp_path / "elsewhere"), start)
    with pytest.raises(ConfigError, match=r"price 0\.5, not 0\.3"):
        begun_as(replace(config, price=0.5), start)
    with pytest.raises(ConfigError, match="start"):
        begun_as(config, NAMM.from_pretrained(SHIPPED / "text-v5"))


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("keep", [None, 0.3])
def test_stopped_and_gone_on_it_evolves_the_same(
    keep: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the small Llama alone, with a step so large that some candidates are worse."""
    monkeypatch.setattr(text_v3, "SMALL", Course(("pairs",), (144,), (48,), 48))

    def config(name: str, generations: int) -> TextV3Config:
        return TextV3Config(
            start=SHIPPED / "text-v4", out=tmp_path / name / "namm", work=tmp_path / name / "run", real=None,
            small=str(SHIPPED.parent / "text" / "recall-llama"), generations=generations, population=4,
            sigma=0.3, small_prompts=2, validation=1, keep=keep,
        )  # fmt: skip

    main(config("whole", 6))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["generation"] for line in told] == list(range(1, 7))
    assert all(isinstance(line["fitness"], float) and 0 < line["extras"]["kept_fraction"] <= 1 for line in told)
    assert [line["validation"] is not None for line in told] == [False, False, False, False, True, True]

    main(config("parted", 3))
    main(config("parted", 6))
    whole, parted = (json.loads((tmp_path / name / "namm" / "card.json").read_text()) for name in ("whole", "parted"))
    start = NAMM.from_pretrained(SHIPPED / "text-v4")
    assert whole["evolution"]["generations"] == 6
    assert whole["start_sha256"] == start.sha256()
    better = (
        max(line["validation"]["score"] for line in told if line["validation"]) > whole["start_validation"]["score"]
    )
    assert whole["evolved_is_better"] == better
    if keep is not None and better:
        assert whole["size"]["kept_fraction"] == pytest.approx(keep, abs=0.1)
    write_card(tmp_path / "whole" / "namm", ())
    told_of = " ".join((tmp_path / "whole" / "namm" / "README.md").read_text().split())
    assert "then evolved" in told_of
    assert "6 generations of 4 candidates" in told_of
    assert f"sha256 of model.safetensors: `{whole['sha256']}`" in told_of
    saved = NAMM.from_pretrained(tmp_path / "whole" / "namm")
    assert torch.equal(saved.flat, start.flat) != better
    assert whole["namm_sha256"] == saved.sha256()
    one, other = ((tmp_path / name / "run" / "history.jsonl").read_text().splitlines() for name in ("whole", "parted"))
    for mine, its in zip(one, other, strict=True):
        first, second = json.loads(mine), json.loads(its)
        if first["validation"] is None:  # a shorter run validates its last generation, too
            assert without_seconds(first) == without_seconds(second)
    assert parted["evolution"]["generations"] == 6


def without_seconds(row: dict[str, object]) -> dict[str, object]:
    """A row without what differs between two runs of the same."""
    return {key: value for key, value in row.items() if key not in ("seconds", "validation")}
