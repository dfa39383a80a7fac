"""What enters is checked once, by type, finiteness and range; errors are one line that names file and field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from namm.errors import CheckpointError, ConfigError, DataError
from namm.typed import Count, Origin, Positive, build, check_fields, read_json


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Facts:
    steps: Count
    scale: Positive | None = None
    mean: tuple[float, ...] = ()
    pair: tuple[float, float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    mode: Literal["fast", "slow"] = "fast"
    flag: bool = False
    place: Path | None = None
    inner: Inner = field(default_factory=Inner)


ORIGIN = Origin("facts.json", DataError, "write it again")


def test_values_that_fit_come_in_the_annotated_types() -> None:
    text = '{"steps": 3, "scale": 2, "mean": [1, 2.5], "pair": [0, 1], "extra": {"a": [1, "x"]}, "place": "here"}'
    facts = build(Facts, json.loads(text), ORIGIN)
    assert facts == Facts(3, 2.0, (1.0, 2.5), (0.0, 1.0), {"a": [1, "x"]}, "fast", False, Path("here"))
    assert isinstance(facts.scale, float)
    assert isinstance(facts.mean[0], float)


@pytest.mark.parametrize(
    ("field_name", "value", "expected", "found"),
    [
        ("steps", "20", "a whole number of 1 or more", "'20' (text)"),
        ("steps", 20.0, "a whole number of 1 or more", "20.0"),
        ("steps", 0, "a whole number of 1 or more", "0"),
        ("steps", True, "a whole number of 1 or more", "true"),
        ("steps", 10**30, "a whole number of 1 or more", "1000000"),
        ("steps", None, "a whole number of 1 or more", "null"),
        ("scale", 0, "a finite number above 0 or null", "0"),
        ("scale", -1e-9, "a finite number above 0 or null", "-1e-09"),
        ("scale", float("nan"), "a finite number above 0 or null", "nan"),
        ("scale", float("inf"), "a finite number above 0 or null", "inf"),
        ("scale", 10**400, "a finite number above 0 or null", "1000000"),
        ("scale", [1.0], "a finite number above 0 or null", "[1.0]"),
        ("mean", 1.0, "a list", "1.0"),
        ("mean", "12", "a list", "'12' (text)"),
        ("pair", [1.0], "a list of 2 or null", "[1.0]"),
        ("extra", [], "an object", "[]"),
        ("mode", "medium", "one of 'fast', 'slow'", "'medium' (text)"),
        ("flag", 1, "true or false", "1"),
        ("flag", "true", "true or false", "'true' (text)"),
        ("place", 3, "a path or null", "3"),
    ],
)
def test_a_value_of_another_kind_is_one_line(field_name: str, value: object, expected: str, found: str) -> None:
    with pytest.raises(DataError) as error:
        build(Facts, {"steps": 1, field_name: value}, ORIGIN)
    text = str(error.value)
    assert text.startswith(f"expected {expected} in {field_name} of facts.json, found {found}")
    assert text.endswith("; write it again")
    assert "\n" not in text
    assert len(text) < 200


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("mean", [1.0, "2"], "mean[1]"),
        ("mean", [1.0, None], "mean[1]"),
        ("pair", [1.0, float("nan")], "pair[1]"),
        ("extra", {"a": [1, float("inf")]}, "extra.a[1]"),
        ("extra", {"a": {"b": float("nan")}}, "extra.a.b"),
    ],
)
def test_what_lies_inside_is_named_by_its_place(name: str, value: object, where: str) -> None:
    with pytest.raises(DataError, match=r"number"):
        build(Facts, {"steps": 1, name: value}, ORIGIN)
    with pytest.raises(DataError) as error:
        build(Facts, {"steps": 1, name: value}, ORIGIN)
    assert f" in {where} of facts.json" in str(error.value)


def test_keys_are_known_and_there() -> None:
    with pytest.raises(DataError, match=r"missing keys \['steps'\], unknown keys \['stepss'\].*Did you mean 'steps'"):
        build(Facts, {"stepss": 1}, ORIGIN)
    for wrong in ([1], None, "text", 3):
        with pytest.raises(DataError, match=r"expected an object in facts\.json"):
            build(Facts, wrong, ORIGIN)


def test_options_are_named_as_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"finite number in --inner\.share, found nan"):
        check_fields(Facts(1, inner=Inner(float("nan"))))
    with pytest.raises(ConfigError, match="a finite number above 0 or null in --scale, found inf"):
        check_fields(Facts(1, scale=float("inf")))
    check_fields(Facts(1))


@pytest.mark.parametrize(
    "text", ["", "{", "[1,", '{"a": 1, "a": 2}', "[" * 100_000, "\x00", "\ufeff{}", '{"a": ' + "9" * 5000 + "}"]
)
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"facts\.json"):
        read_json(path)


def test_json_that_is_no_text_or_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    for name in ("binary.json", "nowhere.json", "."):
        with pytest.raises(DataError, match="expected"):
            read_json(tmp_path / name, DataError)
