"""Every fault that attaching a model can have is caught, by the clause that is meant for it.

Each fault is put into the real parts behind an attached model, where an adapter of one's own would have it, and the
contract is examined as `namm-check` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modalities.conformance import clauses, examine, holding
from modalities.conformance.case import Clause
from modalities.conformance.examine import CLAUSES, Verdict, subject_of
from modalities.conformance.tiny_models import tiny_model
from modalities.huggingface import attach as attaching
from modalities.huggingface.cache import MemoryCache
from modalities.huggingface.mask import Reading
from namm.cache import LayerCache
from namm.memory import Memory
from namm.packed import PackedStore

Patch = Callable[[pytest.MonkeyPatch], None]


def attention(fault: Callable[..., tuple[Tensor, Any]]) -> Patch:
    """A fault in the attention function that transformers calls."""
    stock = attaching._attention

    def put(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(attaching, "_attention", lambda *args, **more: fault(stock, *args, **more))

    return put


def padding_ignored(patch: pytest.MonkeyPatch) -> None:
    read = attaching.Attached.read
    patch.setattr(attaching.Attached, "read", lambda *args: Reading(padding=None, local=read(*args).local))


def scaled_wrongly(stock: Any, module: Any, query: Tensor, *args: Any, **more: Any) -> Any:
    return stock(module, query * 1.01, *args, **more)


def heads_out_of_order(stock: Any, module: Any, query: Tensor, *args: Any, **more: Any) -> Any:
    out, nothing = stock(module, query.roll(1, dims=1), *args, **more)
    return out.roll(-1, dims=2), nothing


def repeated(patch: pytest.MonkeyPatch) -> None:
    """Keys are handed over as attention repeats them."""
    attend = Memory.attend

    def repeating(self: Memory, layer: int, query: Tensor, key: Tensor, value: Tensor, *args: Any) -> Tensor:
        group = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(group, 1) for states in (key, value))
        return attend(self, layer, query, key, value, *args)

    patch.setattr(Memory, "attend", repeating)


def in_float32(stock: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any) -> Any:
    out, nothing = stock(module, query.float(), key.float(), value.float(), *args, **more)
    return out.to(query.dtype), nothing


def second_cache(patch: pytest.MonkeyPatch) -> None:
    """What an adapter does that goes on filling the model's own cache beside the memory."""
    attend = Memory.attend

    def keeping(self: Memory, layer: int, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any) -> Tensor:
        self.__dict__.setdefault("beside", []).append((key.clone(), value.clone()))
        return attend(self, layer, query, key, value, *args, **more)

    reset = Memory.reset

    def emptied(self: Memory) -> None:
        self.__dict__.pop("beside", None)
        reset(self)

    patch.setattr(Memory, "attend", keeping)
    patch.setattr(Memory, "reset", emptied)


def positions_of_slots(patch: pytest.MonkeyPatch) -> None:
    """Positions counted from the slots that are held."""

    def length(self: MemoryCache, *_: Any, **__: Any) -> int:
        return int(self.memory.slots().max()) if self.memory.layers else 0

    patch.setattr(MemoryCache, "get_seq_length", length)


def never_emptied(patch: pytest.MonkeyPatch) -> None:
    """A new prompt goes on where the last one ended."""
    reset = Memory.reset
    patch.setattr(Memory, "reset", lambda self: None if self.layers and self.seen.shape[0] == 1 else reset(self))


def old_cache_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryCache, "check_current", lambda self: None)
    patch.setattr(MemoryCache, "closed", False)


def beams_left_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryCache, "reorder_cache", lambda self, rows: None)
    patch.setattr(MemoryCache, "batch_select_indices", lambda self, rows: None)


def state_left_behind(patch: pytest.MonkeyPatch) -> None:
    """Keys follow the rows of a beam, what the policy remembers of them does not."""
    select = LayerCache.select

    def keys_alone(self: LayerCache, rows: Tensor) -> None:
        before = self.fork()
        select(self, rows)
        select(before, rows.sort().values)
        self.state = before.state

    patch.setattr(LayerCache, "select", keys_alone)


def bytes_kept(patch: pytest.MonkeyPatch) -> None:
    """What is left is a view into the buffer of everything."""
    packed = PackedStore.packed

    def views(self: PackedStore, source: Tensor, lengths: Tensor) -> Any:
        store = packed(self, source, lengths)
        store.keys = torch.cat([store.keys, self.keys.new_zeros(500, store.keys.shape[1])])[: store.keys.shape[0]]
        return store

    patch.setattr(PackedStore, "packed", views)


def values_mixed_up(patch: pytest.MonkeyPatch) -> None:
    """Survivors' values are those of their neighbours."""
    packed = PackedStore.packed

    def mixed(self: PackedStore, source: Tensor, lengths: Tensor) -> Any:
        store = packed(self, source, lengths)
        if source.shape[0] < self.rows("keys").shape[0]:
            store.values = store.values.roll(1, dims=0)
        return store

    patch.setattr(PackedStore, "packed", mixed)


def row_sees_another(patch: pytest.MonkeyPatch) -> None:
    """A row of a batch is judged at its neighbour's length."""
    attend = Memory.attend

    def leaking(self: Memory, layer: int, query: Tensor, key: Tensor, value: Tensor, *args: Any, **more: Any) -> Tensor:
        out = attend(self, layer, query, key, value, *args, **more)
        return torch.cat([out[:1], out[1:] + 0.05 * out[:1]])

    patch.setattr(Memory, "attend", leaking)


FAULTS: dict[str, tuple[Patch, Clause]] = {
    "wrong mask: padding is attended to": (padding_ignored, clauses.KEEP_ALL),
    "padding is stored": (padding_ignored, clauses.SEEN),
    "wrong scale": (attention(scaled_wrongly), clauses.KEEP_ALL),
    "wrong order of heads": (attention(heads_out_of_order), clauses.KEEP_ALL),
    "wrong mask over what is kept": (values_mixed_up, clauses.FORGETTING),
    "repeated head": (repeated, holding.HEADS),
    "re-indexed positions": (positions_of_slots, clauses.POSITIONS),
    "stale cache: a prompt is not forgotten": (never_emptied, clauses.ANEW),
    "stale cache: one that has ended is taken": (old_cache_taken, clauses.ANEW),
    "beams are not reordered": (beams_left_behind, clauses.GENERATION),
    "state is not reordered with beams": (state_left_behind, holding.ROWS),
    "bytes are not freed": (bytes_kept, holding.BYTES),
    "a second cache": (second_cache, holding.BYTES),
    "dtype lost: stored in float32": (attention(in_float32), holding.TYPES),
    "rows see each other": (row_sees_another, clauses.BATCH),
}


def examined(clause: Clause, shrink: bool = False) -> Verdict:
    return examine.examine(subject_of(tiny_model("llama"), "broken"), (clause.name,), shrink)


NAMED = (
    "wrong mask: padding is attended to", "repeated head", "re-indexed positions", "bytes are not freed",
    "stale cache: one that has ended is taken", "state is not reordered with beams", "dtype lost: stored in float32",
)  # fmt: skip
"""One of each kind; the others take longer than they tell more."""


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in NAMED else pytest.mark.slow) for fault in FAULTS]
)
def test_a_fault_is_caught_by_the_clause_that_is_meant_for_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put, clause = FAULTS[fault]
    put(monkeypatch)
    verdict = examined(clause)
    assert verdict.failed == [clause.name], str(verdict)
    assert "TypeCheckError" not in verdict.checks[0].detail


def test_no_clause_is_without_a_fault_that_it_catches() -> None:
    own = {clauses.PIECES, examine.AS_BEFORE}  # test_own_models.py
    assert {clause for _, clause in FAULTS.values()} | own == set(CLAUSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "smallest"),
    [
        ("wrong mask: padding is attended to", [1, 2]),
        ("wrong order of heads", [1]),
        ("repeated head", [2]),
        ("wrong mask over what is kept", [17]),
    ],
)
def test_a_failure_is_made_small(fault: str, smallest: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding needs two rows, a head that is repeated two tokens, forgetting more than an interval."""
    put, clause = FAULTS[fault]
    put(monkeypatch)
    example = examined(clause, shrink=True).checks[0].counterexample
    assert example is not None
    assert sorted(map(len, example.prompts)) == smallest
