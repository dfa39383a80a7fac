"""A memory on a device that is not the CPU: nothing strays, and few things wait for the device.

There is no GPU here. What would end a first run on one, and what would make it slow, can be found without: see
:mod:`tests.namm.pretended_device`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOOKS_FURTHER = {"kvzip": 2, "fastv": 6, "namm": 1}
"""Policies that wait more often at an update, and how much more: for an age, or for positions to look up."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.namm.device_questions"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stray_tensor_of_the_cpu_is_refused(found: dict[str, Any]) -> None:
    """The device is strict: without that the other tests say nothing."""
    assert len(found["refused"]) == 3
    assert all("found pretended and cpu" in said for said in found["refused"])


@pytest.mark.slow
def test_every_policy_and_rule_gives_what_the_cpu_gives(found: dict[str, Any]) -> None:
    assert len(found["wrong"]) > 25
    assert {name: wrong for name, wrong in found["wrong"].items() if wrong} == {}


@pytest.mark.slow
def test_a_new_token_waits_for_nothing(found: dict[str, Any]) -> None:
    """But the first after an update, where heads kept different numbers: their layout is worked out once."""
    for name, waits in found["waits"].items():
        assert waits["next"] == waits["next copies"] == {}, name
        assert sum(waits["step"].values()) <= 1, name


@pytest.mark.slow
def test_an_update_waits_a_bounded_number_of_times(found: dict[str, Any]) -> None:
    """What survives decides the size of the store, so that an update waits; but not for every tensor by a mask."""
    for name, waits in found["waits"].items():
        assert sum(waits["update"].values()) <= 6 + LOOKS_FURTHER.get(name, 0), (name, waits["update"])
