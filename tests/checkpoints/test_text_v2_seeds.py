"""Other seeds of text-v2's recipe, and the table that sets them side by side."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import checkpoints
from checkpoints.recipes.text_v2 import STAGES, TextV2Config, evolutions
from checkpoints.recipes.text_v2_seeds import SeedsConfig, main, rows

SHIPPED = Path(checkpoints.__file__).parent / "namm" / "text-v2"


def test_another_seed_draws_other_prompts_and_candidates_in_every_stage(tmp_path: Path) -> None:
    shipped, other = (evolutions(TextV2Config(work=tmp_path, seed=seed)) for seed in (0, 100))
    assert [run.seed for run in shipped.values()] == [stage.seed for stage in STAGES.values()]
    assert [run.seed for run in other.values()] == [100 + stage.seed for stage in STAGES.values()]


def test_the_table_has_a_column_a_run_with_the_figures_of_its_card(tmp_path: Path, capsys) -> None:
    card = json.loads((SHIPPED / "card.json").read_text())
    other = copy.deepcopy(card)
    for line in other["control"]:
        if line["target"] == "tmaze-150" and line["policy"] == "namm (source)":
            line["score"]["value"] = 12.5
        if line["target"] == "tmaze-150" and line["policy"] == "window":
            line["namm_minus"]["difference"]["value"] = -26.0
    found = {name: figures for name, *figures in rows([card, other])}
    assert found["tmaze-150, namm:source: score, kept"] == ["100.0, 18.5%", "12.5, 18.5%"]
    assert found["tmaze-150: rivals of its size"] == ["ahead of 6, behind 0, of 8", "ahead of 5, behind 1, of 8"]
    assert found["minus text-v1@size: 288, 48"][0] == "+18.1 [+15.9, +20.2]"
    main(SeedsConfig((SHIPPED, SHIPPED)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | text-v2 | text-v2 |"
    assert {line.count("|") for line in lines} == {4}
