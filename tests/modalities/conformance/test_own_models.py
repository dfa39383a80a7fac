"""Models that are not Hugging Face decoders: the examples keep the contract, and what one may get wrong shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modalities import attach
from modalities.base import adapter_of
from modalities.conformance import clauses, holding
from modalities.conformance.case import Clause
from modalities.conformance.examine import AS_BEFORE, Verdict, examine, subject_of
from modalities.conformance.loading import load, load_adapter, module_of
from modalities.own import OwnModels
from namm.errors import AttachError
from namm.memory import Memory
from namm.policies import Policy, make_policy

EXAMPLES = Path(__file__).parents[3] / "examples"
OWN, SHAPE = EXAMPLES / "own_model.py", EXAMPLES / "new_shape.py"


@pytest.fixture(scope="module")
def own() -> ModuleType:
    return module_of(OWN)


@pytest.mark.slow
def test_the_examples_conform() -> None:
    for name, adapter in ((f"{OWN}:build", None), (f"{SHAPE}:build", load_adapter(f"{SHAPE}:WhisperAdapter"))):
        verdict = examine(subject_of(load(name), adapter=adapter))
        assert verdict.conforms, str(verdict)
        assert [check.name for check in verdict.checks if check.outcome != "holds"] == ["generate() equals stock"]


def test_a_model_of_ones_own_is_attached_as_any_other(own: ModuleType) -> None:
    model, ids = own.build(), torch.arange(90)[None]
    stock = model(ids)
    with attach(model, make_policy("full")) as memory:
        pieces = torch.cat([model(ids[:, :40]), model(ids[:, 40:])], dim=1)
        assert memory.seen.tolist() == [90]
        with pytest.raises(AttachError, match="attached already"), attach(model, make_policy("full")):
            pass
    torch.testing.assert_close(pieces, stock, atol=2e-5, rtol=1e-4)
    assert model.memory is None
    assert isinstance(adapter_of(model), OwnModels)


def test_a_module_with_another_memory_is_nobodys() -> None:
    module = nn.Linear(2, 2)
    module.memory = 3
    with pytest.raises(AttachError, match="an attribute `memory` that is None"):
        adapter_of(module)
    module.memory = None
    with pytest.raises(AttachError, match="an adapter of its own"):
        adapter_of(module).subject(module)


def wrapped(around: Callable[..., Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in how a model calls its memory."""
    attend = Memory.attend

    def put(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Memory, "attend", lambda *args, **more: around(attend, *args, **more))

    return put


def lost(attend: Any, memory: Memory, layer: int, *heads: Tensor, **more: Any) -> Tensor:
    """A memory that a later call finds empty."""
    if layer == 0 and memory.seen.numel() and heads[0].shape[2] == 1:
        memory.layers.clear()
    return attend(memory, layer, *heads, **more)


def repeated(attend: Any, memory: Memory, layer: int, query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
    """Whoever keeps one head for all, and repeats it for each."""
    key, value = (states[:, :1].expand_as(query) for states in (key, value))
    return attend(memory, layer, query, key, value, **more)


def upcast(attend: Any, memory: Memory, layer: int, *heads: Tensor, **more: Any) -> Tensor:
    return attend(memory, layer, *(head.float() for head in heads), **more).to(heads[0].dtype)


FAULTS = {
    "lost between calls": (lost, clauses.PIECES),
    "repeated head": (repeated, holding.HEADS),
    "dtype lost": (upcast, holding.TYPES),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_ones_own_model_is_caught(fault: str, own: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    around, clause = FAULTS[fault]
    wrapped(around)(monkeypatch)
    assert verdict_of(own.build(), clause).failed == [clause.name]


def test_a_model_that_never_calls_its_memory_is_told_so(own: ModuleType) -> None:
    model = own.build()
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda module, args: (args[0], None))
    verdict = examine(subject_of(model), shrink=False)
    assert not verdict.conforms
    seen = next(check for check in verdict.checks if check.name == clauses.SEEN.name)
    assert seen.outcome == "fails"
    assert "no layer called memory.attend" in seen.detail
    assert {check.outcome for check in verdict.checks if "no layer called" in check.detail} == {
        "fails",
        "does not apply",
    }


class Careless(OwnModels):
    """Leaves its mark, and its memory where a block ends by an error."""

    @contextmanager
    def attach(self, model: nn.Module, policy: Policy, *, store: str = "packed") -> Iterator[Memory]:
        model.memory = Memory(policy, store=store)
        yield model.memory
        model.memory = None


class Marking(OwnModels):
    @contextmanager
    def attach(self, model: nn.Module, policy: Policy, *, store: str = "packed") -> Iterator[Memory]:
        with super().attach(model, policy, store=store) as memory:
            model.was_attached = True
            yield memory


@pytest.mark.parametrize(
    ("adapter", "after"), [(Careless, "after a block that an error ended"), (Marking, "after a block")]
)
def test_an_adapter_that_leaves_something_behind_is_caught(
    adapter: type[OwnModels], after: str, own: ModuleType
) -> None:
    verdict = verdict_of(own.build(), AS_BEFORE, adapter)
    assert verdict.failed == [AS_BEFORE.name]
    assert verdict.checks[0].detail.endswith(after)


def verdict_of(model: nn.Module, clause: Clause, adapter: type[OwnModels] | None = None) -> Verdict:
    return examine(subject_of(model, adapter=adapter), (clause.name,), shrink=False)
