"""The clauses about what a model computes: under a memory it says what it says without one.

Stock outputs are the reference for a memory that keeps everything; for one that forgets it is attention written out
plainly, over every token ever seen, with the forgotten ones masked. Each clause is one function of a case; what is held
and what it costs is examined in `holding.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from modalities.conformance.case import (
    BUDGET,
    INTERVAL,
    NEVER_CALLED,
    STOCK_ERRS,
    Case,
    Check,
    Clause,
    compared,
    difference,
    evicting,
    in_pieces,
    keeping,
)
from modalities.conformance.reference import PlainReference
from modalities.conformance.subject import Subject
from namm.errors import AttachError
from namm.policies import Policy


def keep_all_equals_stock(case: Case) -> Check:
    """A memory that keeps everything changes no output."""
    return compared(KEEP_ALL.name, case.stock, case.kept.outputs, case.subject.tolerance, case.mask)


def tokens_seen(case: Case) -> Check:
    """Each row has seen its tokens, and no padding."""
    seen = case.kept.seen
    if not seen:
        return Check(SEEN.name, "fails", NEVER_CALLED)
    if seen == list(case.lengths):
        return Check(SEEN.name, "holds", f"{seen}")
    return Check(SEEN.name, "fails", f"expected {list(case.lengths)} tokens, found {seen}")


def generation_equals_stock(case: Case) -> Check:
    """Greedy, sampled and with beams, a memory that keeps everything gives the stock model's tokens."""
    subject, generate = case.subject, case.subject.generate
    if generate is None:
        return Check(GENERATION.name, "does not apply", "this model does not generate")
    mask = torch.ones_like(case.ids) if case.mask is None else case.mask
    differing, note = [], ""
    for kind, options in {
        "greedy": {"do_sample": False},
        "sampling": {"do_sample": True, "top_k": 20},
        "beams": {"do_sample": False, "num_beams": 3},
    }.items():

        def generated(policy: Policy | None, **more: Any) -> Tensor:
            with _attached(subject, policy), torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                return generate(case.ids, mask, max_new_tokens=8, **more)

        ours = generated(keeping(), **options)
        if not torch.equal(generated(None, **options), ours):
            if torch.equal(generated(None, use_cache=False, **options), ours):
                note = "stock itself errs with its cache, and this is as stock without it"
            else:
                differing.append(kind)
    if differing:
        return Check(GENERATION.name, "fails", f"other tokens: {', '.join(differing)}", note)
    return Check(GENERATION.name, "holds", "greedy, sampling, beams", note)


@contextmanager
def _attached(subject: Subject, policy: Policy | None) -> Iterator[None]:
    """With the policy, or stock where there is none."""
    if policy is None:
        yield
    else:
        with subject.attach(policy):
            yield


def pieces_equal_one_call(case: Case) -> Check:
    """Several calls through the returned cache give what one call gives, with everything kept."""
    feeding = case.feeding
    if not feeding.stops:
        return Check(PIECES.name, "does not apply", feeding.note, feeding.note)
    with case.subject.attach(keeping()):
        pieces = in_pieces(case.subject, feeding.ids, feeding.stops)
    return compared(PIECES.name, feeding.whole, pieces, max(case.subject.tolerance, 4 * feeding.own), note=feeding.note)


def positions_go_on(case: Case) -> Check:
    """After tokens were forgotten a later call's positions are still those of one call."""
    feeding = case.feeding
    if not feeding.stops:
        return Check(POSITIONS.name, "does not apply", feeding.note, feeding.note)
    with case.subject.attach(evicting()):
        whole, _ = case.subject.run(feeding.ids, None, None)
        pieces = in_pieces(case.subject, feeding.ids, feeding.stops)
    return compared(POSITIONS.name, whole, pieces, max(case.subject.tolerance, 4 * feeding.own), note=feeding.note)


def prompts_begin_anew(case: Case) -> Check:
    """A call without a cache sees nothing of the prompts before it, and a cache whose prompts have ended is refused."""
    subject = case.subject
    first, second = case.row(0), case.row(len(case.lengths) - 1)
    wanted, _ = subject.run(second, None, None)
    with subject.attach(keeping()) as memory:
        subject.run(first, None, None)
        found, _ = subject.run(second, None, None)
        seen = memory.seen.tolist()
        check = compared(ANEW.name, wanted, found, subject.tolerance)
        if check.outcome == "fails" or seen != [second.shape[1]]:
            return Check(ANEW.name, "fails", f"{check.detail}; {seen} tokens seen of {second.shape[1]}")
        if subject.reorder is None or not case.feeding.stops:
            return check
        _, cache = subject.run(first, None, None)
        subject.run(first, None, None)
        try:
            subject.run(first[:, -1:], None, cache)
        except AttachError:
            return Check(ANEW.name, "holds", f"{check.detail}; the cache of the prompt before is refused")
    return Check(ANEW.name, "fails", "the cache of a prompt that has ended is taken for that of another")


def forgetting_equals_masking(case: Case) -> Check:
    """A memory that evicts attends as the whole sequence does with the evicted tokens masked."""
    subject, ids = case.subject, case.ids[:2]
    with subject.attach(evicting()) as memory:
        reference = PlainReference(memory)
        subject.run(ids, None, None)
        reference.close()
        evicted, worst, layers = memory.report().evicted, reference.worst, len(memory.layers)
    detail = f"{evicted} tokens forgotten in {layers} layers, largest difference {worst:.1e} of {subject.tolerance:.0e}"
    if not layers:
        return Check(FORGETTING.name, "does not apply", NEVER_CALLED)
    if not worst <= subject.tolerance:
        return Check(FORGETTING.name, "fails", detail)
    # two intervals hold more than the budget, however a layer's reach is bounded
    if evicted == 0 and not reference.bounded and ids.shape[1] >= 2 * INTERVAL > BUDGET:
        return Check(FORGETTING.name, "fails", f"expected tokens to be forgotten, found none: {detail}")
    return Check(FORGETTING.name, "holds", detail)


def batch_equals_its_members(case: Case) -> Check:
    """Left-padded rows of several lengths come out, and hold, what each does alone."""
    name, subject = BATCH.name, case.subject
    alone = [subject.run(case.row(row), None, None)[0] for row in range(len(case.lengths))]
    ends = [slice(-length, None) for length in case.lengths]
    own = max(float(difference(out, case.stock[row : row + 1, ends[row]]).max()) for row, out in enumerate(alone))
    if own > STOCK_ERRS:
        told = "in the stock model itself padding changes a row's outputs"
        return Check(name, "does not apply", told, told)
    with subject.attach(evicting("window")) as memory:
        together, _ = subject.run(case.ids, case.mask, None)
        held = [[head.tolist() for head in layer.cache.slots()] for layer in memory.layers.values()]
        for row, end in enumerate(ends):
            single, _ = subject.run(case.row(row), None, None)
            found = compared(name, single, together[row : row + 1, end], max(subject.tolerance, 4 * own))
            same = [layer.cache.slots()[0].tolist() for layer in memory.layers.values()] == [of[row] for of in held]
            if not (found.passed and same):
                return Check(name, "fails", f"row {row}: {found.detail}{'' if same else ', and holds other slots'}")
    lengths = ", ".join(map(str, case.lengths))
    if not subject.padded:
        return Check(name, "holds", f"{len(ends)} prompts of {lengths} tokens; this model takes no padding")
    return Check(name, "holds", f"{len(ends)} prompts of {lengths} tokens, left-padded")


KEEP_ALL = Clause(
    "keep-all equals stock", "a wrong mask, scale or order of heads; padding that is attended to", keep_all_equals_stock
)
SEEN = Clause(
    "tokens seen are counted without padding", "padding that is stored and judged", tokens_seen, compares=False
)
GENERATION = Clause(
    "generate() equals stock", "rows that are not reordered with beams; a cache that generate() passes by",
    generation_equals_stock,
)  # fmt: skip
PIECES = Clause("pieces equal one call", "a cache that is lost, or stored twice, between calls", pieces_equal_one_call)
POSITIONS = Clause(
    "positions go on after forgetting", "positions counted from what is held, not from what was seen", positions_go_on
)
ANEW = Clause("a new prompt begins anew", "a stale cache: tokens of an earlier prompt", prompts_begin_anew)
FORGETTING = Clause(
    "forgetting equals masking", "a wrong mask over what is kept; forgotten tokens that are still attended to",
    forgetting_equals_masking,
)  # fmt: skip
BATCH = Clause("a batch equals its members", "rows that see each other, or another's padding", batch_equals_its_members)
