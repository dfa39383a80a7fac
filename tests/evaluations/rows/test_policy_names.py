"""One grammar of names: what is written is read back, what is not a name is refused, and rows of old names go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluations.analysis.summary import summarise
from evaluations.experiment.names import NamedPolicy, named, policy_of, rivals
from evaluations.rows.policy_names import PolicyName, former, is_namm
from evaluations.rows.results import Cell, Results
from namm.errors import ConfigError, UnknownNameError
from tests.evaluations.rows.made_up_rows import made_up_rows


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("window", "window"),
        ("namm", "namm:source"),
        ("namm:released", "namm:released"),
        ("window@heads", "window@heads"),
        ("snapkv(schedule=prompt)", "snapkv(schedule=prompt)"),
        (" adakv( safeguard = 0.5 ,protected_first=4)@heads", "adakv(protected_first=4,safeguard=0.5)@heads"),
        ("namm(heads=equal)", "namm:source(heads=equal)"),
        ("mine(flag=True)", "mine(flag=true)"),
    ],
)
def test_names_are_written_in_one_way(written: str, canonical: str) -> None:
    assert str(PolicyName.parse(written)) == canonical
    assert PolicyName.parse(canonical) == PolicyName.parse(written)


@pytest.mark.parametrize(
    "written",
    ["", "window@", "window@layers", "snapkv(schedule)", "snapkv(a=1,a=2)", "snapkv(", "a b", "namm:"],
)
def test_what_is_no_name_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        PolicyName.parse(written)


def test_options_of_a_name_reach_the_policy_and_impossible_ones_are_named() -> None:
    (chosen,) = named(["snapkv(schedule=prompt,protected_first=2)"], rivals())
    policy = chosen.make(interval=64, budget=32, schedule="interval")
    assert (policy.selection.schedule, policy.selection.protected_first) == ("prompt", 2)
    assert chosen.protected_first == 2
    same, _ = policy_of("snapkv(schedule=prompt,protected_first=2)", None, {"budget": 32, "interval": 64})
    assert same.describe() == policy.describe()
    for written, told in (
        ("window(bugdet=3)", "no option 'bugdet'"),
        ("window(budget=3)", "same for all policies"),
        ("full(protected_first=3)", "no option"),
    ):
        with pytest.raises(ConfigError, match=told):
            named([written], (*rivals(), "full"))
    with pytest.raises(ConfigError, match="no prompt to be judged once"):
        named(["snapkv(schedule=prompt)"], rivals(), streams=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'window'"):
        named(["windw(protected_first=3)"], rivals())


def test_a_policy_is_a_namm_by_its_name_and_not_by_its_beginning() -> None:
    assert [is_namm(name) for name in ("namm", "namm:target", "namm (held out)", "namm(heads=equal)")] == [True] * 4
    assert not any(is_namm(name) for name in ("nammish", "my_namm", "window"))
    assert NamedPolicy.of("namm:released").is_namm
    assert not NamedPolicy.of("nammish").is_namm


def test_rows_of_old_names_are_shown_under_todays_and_are_not_played_again(tmp_path: Path) -> None:
    old = {"namm:source": "namm (source)", "namm:target": "namm (target)", "native_window": "native window"}
    assert {name: former(name) for name in old} == old
    rows = made_up_rows(seeds=1)
    lines = []
    for row in rows:
        cell = Cell(row["target"], row["task"], former(row["policy"]), row["seed"], row["identity"])
        memory = {**row["memory"], "matched_to": "namm (target)" if row["policy"] == "window" else None}
        lines.append(json.dumps({**row, "key": cell.key, "policy": former(row["policy"]), "memory": memory}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    results = Results(tmp_path)
    for row in rows:
        identity, name = row["identity"], row["policy"]
        found = results.get(Cell(row["target"], row["task"], name, row["seed"], identity, keyed_as=former(name)))
        assert found is not None
        assert found["policy"] == name
    (target,) = summarise(list(results._rows.values()))
    assert target.matched_to == "namm:target"
    assert target.native is not None
