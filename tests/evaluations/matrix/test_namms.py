"""NAMMs by name, folder and pattern, put together into lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluations.matrix.namms import SHIPPED_NAMMS, recipes
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError


def test_names_that_differ_in_their_seed_alone_are_one_line() -> None:
    found = recipes(["text-v3", "text-v3-seed*", "text-v2"])
    assert [line.name for line in found] == ["text-v3", "text-v2"]
    assert [name for name, _ in found[0].runs] == ["text-v3", "text-v3-seed1", "text-v3-seed2"]


def test_one_pattern_may_name_a_whole_recipe_and_no_other() -> None:
    found = recipes(["text-v3*"])
    assert [line.name for line in found] == ["text-v3", "text-v3-attention"]


def test_folders_are_named_and_put_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        NAMM.from_pretrained(SHIPPED_NAMMS / "text-v2").save_pretrained(tmp_path / name)
    found = recipes([f"mine={tmp_path / 'a'},{tmp_path / 'b'}"])
    assert [line.name for line in found] == ["mine"]
    assert [folder.name for _, folder in found[0].runs] == ["a", "b"]


@pytest.mark.parametrize("written", ["text-v9", "nowhere/at/all", "text-v9*", "mine=text-v2,text-v33"])
def test_what_is_not_there_is_named_with_what_is(written: str) -> None:
    with pytest.raises(UnknownNameError, match="text-v3"):
        recipes([written])


def test_a_namm_of_two_lines_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="two lines"):
        recipes(["text-v3", "mine=text-v3"])
