"""The clauses about what a memory holds: each head once, in the model's own type, row by row, no byte unreported."""

from __future__ import annotations

import gc
from contextlib import nullcontext

import torch
from jaxtyping import Int
from torch import Tensor

from modalities.conformance.case import INTERVAL, NEVER_CALLED, Case, Check, Clause, compared, evicting, keeping
from modalities.conformance.subject import Subject, cast, types_of
from namm.layer import LayerMemory
from namm.memory import Memory

HALF = torch.bfloat16
"""What weights in float32 are tried in besides: there a type that is lost shows."""
BESIDE = 0.25
"""From this part of a token's keys and values on, what grows beside a memory with every token is a second one."""


def heads_are_stored_once(case: Case) -> Check:
    """No two KV heads of a layer hold the same, as they do where keys are repeated for their query heads."""
    if not case.kept.seen:
        return Check(HEADS.name, "does not apply", NEVER_CALLED)
    if case.kept.repeated:
        return Check(HEADS.name, "fails", f"{case.kept.repeated}; hand keys over before they are repeated")
    with case.subject.attach(keeping()) as memory:
        case.subject.run(case.ids, case.mask, None)
        layers = memory.layers.values()
        grouped = {f"{layer.group * layer.cache.kv_heads}/{layer.cache.kv_heads}" for layer in layers}
    return Check(HEADS.name, "holds", f"query/KV heads {', '.join(sorted(grouped))}")


def types_are_kept(case: Case) -> Check:
    """Keys, values and outputs are of the stock model's type, in float32 and in half precision."""
    subject = case.subject
    if not case.kept.seen:
        return Check(TYPES.name, "does not apply", NEVER_CALLED)
    own = types_of(subject.model)
    if subject.model is None or len(own) != 1:
        found = ", ".join(sorted(map(str, own))) or "no weights that are known"
        return Check(TYPES.name, "does not apply", f"expected weights of one type, found {found}")
    tried = []
    for dtype in dict.fromkeys((*own, HALF)):
        with nullcontext() if dtype in own else cast(subject.model, dtype):
            try:
                stock, cache = subject.run(case.row(0), None, None)
            except Exception as error:  # whatever the stock model raises in a type that nobody asked for
                if dtype in own:
                    raise
                tried.append(f"{_name(dtype)} not: the stock model raises {type(error).__name__}")
                continue
            wanted = (subject.stored_types(cache) if subject.stored_types else set()) or {dtype}
            with subject.attach(keeping()) as memory:
                found, _ = subject.run(case.row(0), None, None)
                stored = {t.dtype for layer in memory.layers.values() for t in (layer.cache.keys, layer.cache.values)}
        if found.dtype != stock.dtype or not stored <= wanted:
            told = f"keys and values of {_names(wanted)} and outputs of {_name(stock.dtype)}"
            return Check(
                TYPES.name, "fails",
                f"expected {told} where weights are {_name(dtype)}, found {_names(stored)} and {_name(found.dtype)}",
            )  # fmt: skip
        tried.append(_name(dtype))
    return Check(TYPES.name, "holds", ", ".join(tried))


def rows_take_their_state(case: Case) -> Check:
    """Rows that are reordered, as beams are, take their keys and what the policy remembers of them along."""
    if not case.kept.seen:
        return Check(ROWS.name, "does not apply", NEVER_CALLED)
    subject, ids = case.subject, case.even()
    if subject.reorder is None or not case.feeding.stops:
        told = case.feeding.note if subject.reorder else "the adapter does not say how rows of its cache are reordered"
        return Check(ROWS.name, "does not apply", told)
    rows = torch.tensor([*range(1, ids.shape[0]), 0, 0])
    begun = max(1, ids.shape[1] - INTERVAL)  # one update before rows are reordered, one after
    with subject.attach(evicting("h2o")) as memory:
        _, cache = subject.run(ids[:, :begun], None, None)
        found = _go_on(subject, subject.reorder(cache, rows), ids[rows, begun:])
        held = [memory.kept_positions(layer).tolist() for layer in memory.layers]
        _, cache = subject.run(ids[rows, :begun], None, None)
        wanted = _go_on(subject, cache, ids[rows, begun:])
        expected = [memory.kept_positions(layer).tolist() for layer in memory.layers]
    check = compared(ROWS.name, wanted, found, max(subject.tolerance, 4 * case.feeding.own))
    if check.outcome == "holds" and held != expected:
        return Check(ROWS.name, "fails", f"{check.detail}, but other tokens are kept: the policy's state stayed behind")
    return check


def _go_on(subject: Subject, cache: object, ids: Int[Tensor, "batch tokens"]) -> Tensor:
    """Outputs of tokens that are fed one by one after what a cache holds."""
    outputs = []
    for column in range(ids.shape[1]):
        output, cache = subject.run(ids[:, column : column + 1], None, cache)
        outputs.append(output)
    return torch.cat(outputs, 1)


def bytes_reported_are_held(case: Case) -> Check:
    """What a report counts is what is allocated, forgetting frees it, and no second cache grows beside the memory."""
    name, subject = BYTES.name, case.subject
    if not case.kept.seen:
        return Check(name, "does not apply", NEVER_CALLED)
    with subject.attach(keeping()) as memory:
        subject.run(case.ids, case.mask, None)
        everything, claimed = _allocated(memory), memory.report().cache_bytes
        bounded = all(layer.rule.local is not None for layer in memory.layers.values())
        a_token = sum(map(_slot_bytes, memory.layers.values())) / sum(case.lengths)
    with subject.attach(evicting()) as memory:
        subject.run(case.ids, case.mask, None)
        kept, reported = _allocated(memory), memory.report().cache_bytes
    with subject.attach(evicting(schedule="prompt")) as memory:
        subject.run(case.ids, case.mask, None)
        compressed, needed = _allocated(memory), sum(map(_slot_bytes, memory.layers.values()))
    detail = (
        f"{claimed} bytes with everything kept, {reported} after forgetting, {compressed} of a compressed prompt whose "
        f"slots need {needed}"
    )
    if everything != claimed or kept != reported or compressed != needed:
        return Check(name, "fails", f"{detail}; allocated are {everything}, {kept} and {compressed}")
    if kept >= everything and not bounded and min(case.lengths) > 2 * INTERVAL:
        return Check(name, "fails", f"{detail}: forgetting frees nothing")
    beside = _growth_beside(case)
    if beside > BESIDE * a_token:
        return Check(
            name, "fails",
            f"with each token {beside:.0f} bytes grow beside the memory, where its keys and values take {a_token:.0f}: "
            "something else holds what was forgotten",
        )  # fmt: skip
    return Check(name, "holds", f"{detail}; beside the memory {max(beside, 0.0):.0f} bytes a token")


def _growth_beside(case: Case) -> float:
    """Bytes that live beside a forgetting memory with each further token of a prompt; rubbish is collected in doubt."""
    ids = case.row(0)
    columns = (max(1, ids.shape[1] - 2 * INTERVAL), ids.shape[1])
    if columns[0] == columns[1]:
        return 0.0
    growth = 0.0
    for collect in (False, True):
        held = []
        with case.subject.attach(evicting()) as memory:
            for count in columns:
                cache = case.subject.run(ids[:, :count], None, None)[1]  # outputs grow too, and are nobody's cache
                if collect:
                    gc.collect()
                held.append(_live_bytes() - memory.cache_bytes() - memory.state_bytes())
                del cache
        growth = (held[1] - held[0]) / (columns[1] - columns[0])
        if growth <= 0:
            break
    return growth


def _live_bytes() -> int:
    """Bytes of every tensor that Python holds, each storage once."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor):
            try:
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # sparse tensors and those without storage
                continue
    return sum(found.values())


def _allocated(memory: Memory) -> int:
    """Bytes of every storage behind keys and values, each once."""
    tensors = [
        tensor
        for layer in memory.layers.values()
        for tensor in (layer.cache.keys, layer.cache.values, layer.cache.tail_keys, layer.cache.tail_values)
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _slot_bytes(layer: LayerMemory) -> int:
    """Bytes that the slots in use take."""
    cache = layer.cache
    return int(cache.slots().sum()) * (cache.head_dim + cache.value_dim) * cache.keys.element_size()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(map(_name, dtypes)))


HEADS = Clause(
    "each head is stored once", "keys that are repeated for their query heads", heads_are_stored_once, compares=False
)
TYPES = Clause(
    "types are kept", "keys and values that are stored, or outputs that come, in another type", types_are_kept,
    compares=False,
)  # fmt: skip
ROWS = Clause(
    "rows take their state along",
    "a policy's state, or keys, that do not follow reordered beams",
    rows_take_their_state,
)
BYTES = Clause(
    "bytes reported are bytes held", "forgotten tokens whose bytes are not freed; a cache beside the memory",
    bytes_reported_are_held, compares=False,
)  # fmt: skip
