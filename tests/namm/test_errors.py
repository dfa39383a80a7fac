"""A mistyped name is answered by what was probably meant, and by what there is, in a message that can be read."""

from __future__ import annotations

from namm.errors import MANY, did_you_mean


def test_a_few_names_are_all_told() -> None:
    assert did_you_mean("h20", ("window", "h2o", "full")) == "Did you mean 'h2o'? Known: full, h2o, window."
    assert did_you_mean("xyz", ("window", "h2o")) == "Known: h2o, window."


def test_of_many_names_the_nearest_are_told_and_where_the_others_are() -> None:
    names = [f"task-{number:02}" for number in range(MANY + 1)]
    said = did_you_mean("tusk-07", names)
    assert said.startswith("Did you mean 'task-07' or 'task-")
    assert f"Known: {MANY + 1} names, such as task-07, " in said
    assert said.count("task-") == 2 + 6
    assert did_you_mean("xyz", names, listed="docs/x.md") == f"Known: {MANY + 1} names, listed in docs/x.md."
    assert did_you_mean("xyz", names[:-1], listed="docs/x.md").count("task-") == MANY
