"""The clauses of the contract that a memory keeps with a model, one function each.

Stock outputs are the reference for a memory that keeps everything; for one that forgets it is attention written out
plainly, over every token ever seen, with the forgotten ones masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalities.conformance.reference import PlainReference
from namm.layer import LayerMemory
from namm.memory import Memory
from namm.policies import Policy, make_policy

INTERVAL = 16
BUDGET = 10
LENGTHS = (41, 58, 33)
"""Tokens of the prompts of a batch; left-padded to the longest."""
ALONE = 18
"""Tokens at the end of prompts that are fed one by one where a model takes no longer pieces: more than an interval."""
STOCK_ERRS = 1e-2
"""From here on a stock model that disagrees with itself (padded and not, in pieces and whole) is no reference."""


@dataclass(frozen=True)
class Subject:
    """What is examined: any model, with a way to run it and a way to attach a policy to it."""

    name: str
    run: Callable[[Int[Tensor, "batch tokens"], Int[Tensor, "batch columns"] | None, Any], tuple[Tensor, Any]]
    """New tokens, mask over all columns so far, the last call's cache or None: outputs of the new tokens, cache."""
    attach: Callable[[Policy], AbstractContextManager[Memory]]
    generate: Callable[..., Tensor] | None
    """Stock generation of a Hugging Face model (ids, mask, options); None where there is none."""
    fingerprint: Callable[[], str]
    """Of everything that attaching could leave behind."""
    tokens: Int[Tensor, " vocabulary"]
    """Tokens that mean nothing special."""
    tolerance: float
    placed: Callable[[Tensor, Tensor], Tensor] = lambda ids, mask: ids
    """Puts into prompts of drawn tokens what this model must also be shown; such as the places of pictures."""
    lengths: tuple[int, ...] = LENGTHS
    """Tokens of the prompts; what is placed near their beginning makes them longer."""


@dataclass(frozen=True)
class Check:
    """One clause of the contract."""

    name: str
    passed: bool
    detail: str
    note: str = ""
    """What the stock model itself does not do, so that nothing can be compared."""


def evicting(name: str = "random", **options: Any) -> Policy:
    """A policy that lets go early: each head keeps others."""
    return make_policy(name, interval=INTERVAL, budget=BUDGET, protected_last=4, **options)


def prompts(subject: Subject) -> tuple[Int[Tensor, "batch columns"], Int[Tensor, "batch columns"]]:
    """Left-padded prompts of several lengths, and their mask."""
    lengths, longest = subject.lengths, max(subject.lengths)
    drawn = torch.randint(len(subject.tokens), (len(lengths), longest), generator=torch.Generator().manual_seed(1))
    ids = subject.tokens[drawn.to(subject.tokens.device)]
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    mask = mask.long().to(ids.device)
    return subject.placed(torch.where(mask.bool(), ids, subject.tokens[0]), mask), mask


def _difference(wanted: Tensor, found: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Largest difference of each token's outputs, in units of the largest value; padding aside."""
    difference = (wanted - found).abs().amax(-1) / wanted.abs().max().clamp_min(1e-6)
    return difference if mask is None else difference.masked_fill(mask[:, -difference.shape[1] :] == 0, 0.0)


def compared(name: str, wanted: Tensor, found: Tensor, tolerance: float, mask: Tensor | None = None) -> Check:
    """Equal to rounding, padding aside."""
    difference = _difference(wanted, found, mask)
    worst = float(difference.max())
    where = ""
    if not worst <= tolerance:  # also NaN
        row, column = divmod(int((~(difference <= tolerance)).flatten().int().argmax()), difference.shape[1])
        where = f"; first in row {row} at column {column}"
    return Check(name, worst <= tolerance, f"largest difference {worst:.1e} of {tolerance:.0e}{where}")


def generation_equals_stock(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    """Greedy, sampled and with beams, a memory that keeps everything gives the stock model's tokens."""
    name = "generate() equals stock"
    generate = subject.generate
    if generate is None:
        return Check(name, True, "this model does not generate")
    differing, note = [], ""
    for kind, options in {
        "greedy": {"do_sample": False},
        "sampling": {"do_sample": True, "top_k": 20},
        "beams": {"do_sample": False, "num_beams": 3},
    }.items():

        def generated(policy: Policy | None, **more: Any) -> Tensor:
            with _attached(subject, policy), torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                return generate(ids, mask, max_new_tokens=8, **more)

        ours = generated(make_policy("full", interval=INTERVAL), **options)
        if not torch.equal(generated(None, **options), ours):
            if torch.equal(generated(None, use_cache=False, **options), ours):
                note = "stock itself errs with its cache, and this is as stock without it"
            else:
                differing.append(kind)
    detail = f"differs: {', '.join(differing)}" if differing else "greedy, sampling, beams"
    return Check(name, not differing, detail, note)


@contextmanager
def _attached(subject: Subject, policy: Policy | None) -> Iterator[None]:
    """With the policy, or stock where there is none."""
    if policy is None:
        yield
    else:
        with subject.attach(policy):
            yield


def pieces_equal_one_call(subject: Subject, ids: Tensor) -> Check:
    """Several calls through the returned cache see the positions that one call sees, also after eviction."""
    name = "pieces equal one call"
    whole, _ = subject.run(ids, None, None)
    columns = ids.shape[1]
    begun = columns - ALONE
    ways = (
        ((1, 20, 37, 38, columns), ""),
        ((begun, begun + 9, begun + 10, columns), "stock itself errs where the first call is short"),
        ((begun, *range(begun + 1, columns + 1)), "stock itself errs when fed several tokens after the first call"),
    )
    tried = ((stops, note, _own_error(subject, ids, whole, stops)) for stops, note in ways)
    fitting = next((way for way in tried if way[2] <= STOCK_ERRS), None)
    if fitting is None:
        return Check(name, True, "not asked", "the stock model itself cannot be fed in pieces")
    stops, note, own = fitting
    with subject.attach(evicting()):
        whole, _ = subject.run(ids, None, None)
        pieces = _in_pieces(subject, ids, stops)
    found = compared(name, whole, pieces, max(subject.tolerance, 4 * own))
    return Check(name, found.passed, found.detail, note)


def _own_error(subject: Subject, ids: Tensor, whole: Tensor, stops: Sequence[int]) -> float:
    """How far the stock model is from itself when fed in pieces; infinite where it does not take them at all."""
    try:
        return float(_difference(whole, _in_pieces(subject, ids, stops)).max())
    except (RuntimeError, ValueError, IndexError):
        return float("inf")


def _in_pieces(subject: Subject, ids: Tensor, stops: Sequence[int]) -> Tensor:
    outputs, cache, start = [], None, 0
    for stop in stops:
        output, cache = subject.run(ids[:, start:stop], None, cache)
        outputs.append(output)
        start = stop
    return torch.cat(outputs, 1)


def forgetting_equals_masking(subject: Subject, ids: Tensor) -> Check:
    """A memory that evicts attends as the whole sequence does with the evicted tokens masked."""
    with subject.attach(evicting()) as memory:
        reference = PlainReference(memory)
        subject.run(ids, None, None)
        reference.close()
        evicted, worst, layers = memory.report().evicted, reference.worst, len(memory.layers)
    passed = worst <= subject.tolerance and (evicted > 0 or reference.bounded)
    detail = f"{evicted} tokens forgotten in {layers} layers, largest difference {worst:.1e} of {subject.tolerance:.0e}"
    return Check("forgetting equals masking", passed, detail)


def batch_equals_its_members(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    """Left-padded rows of several lengths come out, and hold, what each does alone."""
    name = "a batch equals its members"
    stock, _ = subject.run(ids, mask, None)
    rows = [(slice(row, row + 1), slice(-length, None)) for row, length in enumerate(subject.lengths)]
    own = max(float(_difference(subject.run(ids[at], None, None)[0], stock[at]).max()) for at in rows)
    if own > STOCK_ERRS:
        return Check(name, True, "not asked", "in the stock model itself padding changes a row's outputs")
    with subject.attach(evicting("window")) as memory:
        together, _ = subject.run(ids, mask, None)
        held = [[head.tolist() for head in layer.cache.slots()] for layer in memory.layers.values()]
        for row, at in enumerate(rows):
            alone, _ = subject.run(ids[at], None, None)
            found = compared(name, alone, together[at], max(subject.tolerance, 4 * own))
            same = [layer.cache.slots()[0].tolist() for layer in memory.layers.values()] == [of[row] for of in held]
            if not (found.passed and same):
                return Check(name, False, f"row {row}: {found.detail}{'' if same else ', and holds other slots'}")
    return Check(name, True, f"{len(rows)} prompts of {', '.join(map(str, subject.lengths))} tokens, left-padded")


def bytes_reported_are_held(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    """What a report counts is what is allocated, forgetting makes it less, and a compressed prompt leaves no room."""
    with subject.attach(make_policy("full", interval=INTERVAL)) as memory:
        subject.run(ids, mask, None)
        everything, claimed = _allocated(memory), memory.report().cache_bytes
        bounded = all(layer.rule.local is not None for layer in memory.layers.values())
    with subject.attach(evicting()) as memory:
        subject.run(ids, mask, None)
        kept, reported = _allocated(memory), memory.report().cache_bytes
        grouped = {f"{layer.group * layer.cache.kv_heads}/{layer.cache.kv_heads}" for layer in memory.layers.values()}
    with subject.attach(evicting(schedule="prompt")) as memory:
        subject.run(ids, mask, None)
        compressed, needed = _allocated(memory), sum(map(_slot_bytes, memory.layers.values()))
    passed = everything == claimed and kept == reported and (kept < everything or bounded) and compressed == needed
    heads = ", ".join(sorted(grouped))
    detail = (
        f"{claimed} bytes with everything kept, {reported} after forgetting, {compressed} of a compressed prompt whose "
        f"slots need {needed}; query/KV heads {heads}"
    )
    return Check("bytes reported are bytes held", passed, detail)


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
