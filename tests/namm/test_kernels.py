"""Kernels of our own: equal to their definitions in Triton's interpreter, compiled for GPUs that nobody has here, and
not used where they are wrong or cannot run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from namm import NAMM, Memory
from namm.kernels import choice
from namm.policies import make_policy

pytest.importorskip("triton", reason="there is no triton for this system")
ROOT = Path(__file__).parents[2]
TARGETS = {80: 163, 90: 227, 100: 227}
"""Compute capability, and KiB of shared memory that a program may have there (CUDA's table of capabilities)."""


def asked(*what: str, interpreted: bool = False) -> Any:
    """What :mod:`tests.namm.kernel_questions` says."""
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpreted)), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-W", "error::UserWarning", "-m", "tests.namm.kernel_questions", *what]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_fold_is_its_definition_and_a_memory_keeps_the_same_with_it() -> None:
    """Widths that are no power of two, groups of 1 to 8, blocks that are not full, caps, causal and older tokens."""
    found = asked(interpreted=True)
    assert {name: off for name, off in found["differences"].items() if not off <= 1e-5} == {}
    assert len(found["differences"]) == 8
    assert found["fused"]
    (places, state), (plain_places, plain_state) = found["with"], found["without"]
    assert places == plain_places
    assert min(places[0]) < max(places[0])  # ragged
    torch.testing.assert_close(torch.tensor(state), torch.tensor(plain_state), rtol=1e-4, atol=1e-6)
    assert state != plain_state  # another order of sums: it was the kernel


def test_where_the_kernel_cannot_run_the_definition_is_used_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a GPU Triton's launch fails; that must not end a run."""
    monkeypatch.setattr(choice, "_is_able", lambda device: True)
    choice._is_right.cache_clear()
    policy = make_policy("namm", namm=NAMM(), interval=32, budget=16)

    def read() -> torch.Tensor:
        memory, random = Memory(policy), torch.Generator().manual_seed(0)
        query, key, value = (torch.randn(1, 2, 64, 16, generator=random) for _ in range(3))
        memory.attend(0, query, key, value)
        return memory.layers[0].cache.state["spectrum"]

    with pytest.warns(UserWarning, match="does not run there"):
        found = read()
    choice._is_right.cache_clear()
    monkeypatch.setenv("NAMM_KERNELS", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(found, read(), rtol=0, atol=0)


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_is_able", lambda device: True)
    for off in (0.5, float("nan")):
        choice._is_right.cache_clear()
        monkeypatch.setattr(choice, "worst_difference", lambda *_, off=off: off)
        with pytest.warns(UserWarning, match="is off by"):
            assert not choice.can_fold(torch.zeros(1, 1, 1, 16), 2, 16, False)
    choice._is_right.cache_clear()
    monkeypatch.setattr(choice, "worst_difference", lambda *_: 1e-6)
    assert choice.can_fold(torch.zeros(1, 1, 1, 16), 2, 16, False)
    assert not choice.can_fold(torch.zeros(1, 1, 1, 16), 2, 8, False)  # another hop
    assert not choice.can_fold(torch.zeros(1, 1, 1, 512), 2, 16, False)  # too wide
    choice._is_right.cache_clear()


@pytest.mark.slow
def test_the_fold_compiles_for_gpus_within_their_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """In bf16, 128 wide, four heads a group: next to nothing leaves the registers, and a program's memory is there."""
    found = asked("compiled")
    with capsys.disabled():
        print(f"the fold by compute capability: {found}")
    assert {int(capability) for capability in found} == set(TARGETS)
    for capability, needs in found.items():
        assert needs["spilled"] <= 64
        assert 0 < needs["shared"] <= TARGETS[int(capability)] * 1024
        assert 0 < needs["registers"] <= 255
