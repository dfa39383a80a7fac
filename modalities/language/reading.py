"""Reads batches of prompts under a policy: contexts first, then questions, then greedy answers or scores of tokens.

Prompts of a batch may have any lengths (left padding). A beginning that several share is read once; then the memory is
forked, a row for each. Every token, also a scored one, passes through the evicting memory. A row that has its answer
leaves the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach
from modalities.language.batch import Batch, BatchMaker, plain_batch
from modalities.language.foresight import Foreseen, foresee
from modalities.language.prompts import Group, Prompt
from namm.errors import DataError
from namm.grades import Grades
from namm.memory import Memory
from namm.policies import Policy, make_policy
from namm.report import MemoryReport

Finished = Callable[[list[int]], bool]
"""Whether generated tokens are a whole answer."""

Look = Callable[[Memory, Sequence[int]], None]
"""Is shown a memory, and the place of each of its rows among the prompts; changes nothing."""


@dataclass(frozen=True)
class Answer:
    """What came of one prompt, and what the memory held when its question came."""

    tokens: tuple[int, ...]
    """Generated, the one that ended the answer included."""

    choices: tuple[int, ...]
    """The model's first choice for each asked token."""

    hits: tuple[bool, ...]
    """Whether that was right."""

    log_likelihoods: tuple[float, ...]
    """Of each asked token, in nats."""

    context_tokens: int
    """Tokens seen when the question came."""

    held: Int[Tensor, "layers kv_heads"]
    """Slots held then."""

    held_after: Int[Tensor, "layers kv_heads"]
    """Slots held when the question was read, too."""

    kept: tuple[tuple[tuple[int, ...], ...], ...] | None
    """Positions held then, for each layer and KV head; None where nobody asked."""

    @property
    def slots(self) -> float:
        """Slots held when the question came, mean over layers and KV heads."""
        return float(self.held.float().mean())


@dataclass(frozen=True)
class Costs:
    """What one batch cost."""

    prompts: int
    prefill_seconds: float
    """Reading contexts and questions, updates included, and whatever a policy has read ahead."""
    decode_seconds: float
    """Generating, updates included."""
    policy_seconds: float | None
    """Updates alone; None on a device that runs behind."""
    decoded_tokens: int
    cache_bytes: int
    """Keys and values allocated when the questions came, spare room included."""
    peak_cache_bytes: int
    state_bytes: int
    peak_state_bytes: int
    evicted: int
    """Tokens evicted until the end, counted per layer, KV head and sequence."""


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    policy: Policy,
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    finished: Finished = lambda tokens: False,
    chunk: int | None = None,
    traced: frozenset[int] = frozenset(),
    make_batch: BatchMaker = plain_batch,
    look: Look | None = None,
) -> tuple[dict[int, Answer], Costs]:
    """Reads one batch.

    Args:
        model: A causal language model.
        policy: Governs its cache.
        prompts: Of which the groups' members are places.
        groups: The batch.
        finished: Ends an answer.
        chunk: Most columns a forward call; None reads a part in one. Changes no result, only the room it takes.
        traced: Places whose kept positions are wanted.
        make_batch: What feeds the rows; a model that reads more than tokens has its own.
        look: Called when the questions come.

    Returns:
        The answer of every member by place, and what the batch cost.
    """
    clock = _Clock(model.device)
    groups = _separate(policy, prompts, groups)
    places = [place for group in groups for place in group.members]
    asked = [prompts[place] for place in places]
    ahead = _ahead(model, policy, asked, finished, chunk, make_batch)
    with attach(model, policy) as memory:
        memory.identities = torch.tensor([group.identity for group in groups])
        memory.tell_foresight(ahead.foresight)
        memory.tell_grades(_grades(asked) if policy.reads_grades else None)
        batch = make_batch(model, memory, chunk, [prompts[group.members[0]] for group in groups])
        _feed_contexts(batch, prompts, groups)
        held, then = memory.slots(), memory.report()
        kept = {place: _kept(memory, row) for row, place in enumerate(places) if place in traced}
        if look is not None:
            look(memory, places)
        logits, scores = batch.ask([prompt.question for prompt in asked], [prompt.targets for prompt in asked])
        held_after = memory.slots()
        prefill_seconds = clock.lap()
        tokens = _generate(batch, logits, [prompt.new_tokens for prompt in asked], finished)
        decode_seconds, now = clock.lap(), memory.report()
        policy_seconds = memory.update_seconds() if model.device.type == "cpu" else None
    answers = {
        place: Answer(
            tuple(tokens[row]), *scores[row], len(asked[row].context), held[row], held_after[row], kept.get(place)
        )
        for row, place in enumerate(places)
    }
    costs = Costs(
        prompts=len(places), prefill_seconds=prefill_seconds, decode_seconds=decode_seconds,
        policy_seconds=policy_seconds, decoded_tokens=sum(map(len, tokens)), evicted=now.evicted,
        **_room(then, now, ahead),
    )  # fmt: skip
    return answers, costs


def _separate(policy: Policy, prompts: Sequence[Prompt], groups: Sequence[Group]) -> Sequence[Group]:
    """The groups; one for each prompt where what the policy is told of a prompt is its own, and nothing is shared."""
    if policy.foresees is None and not policy.reads_grades:
        return groups
    members = [(place, group.identity) for group in groups for place in group.members]
    return [Group((place,), len(prompts[place].context), identity) for place, identity in members]


def _feed_contexts(batch: Batch, prompts: Sequence[Prompt], groups: Sequence[Group]) -> None:
    """Once what the members of a group share; then a row for each of them, and what is its own."""
    batch.feed([prompts[group.members[0]].context[: group.shared] for group in groups])
    batch.select([row for row, group in enumerate(groups) for _ in group.members])
    rest = [prompts[place].context[group.shared :] for group in groups for place in group.members]
    if any(rest):
        batch.feed(rest)


def _room(then: MemoryReport, now: MemoryReport, ahead: Foreseen) -> dict[str, int]:
    """Bytes when the questions came, and at the peak until the end, whatever was read ahead included."""
    return {
        "cache_bytes": then.cache_bytes,
        "peak_cache_bytes": max(now.peak_cache_bytes, ahead.peak_cache_bytes),
        "state_bytes": then.state_bytes,
        "peak_state_bytes": max(now.peak_state_bytes, ahead.peak_state_bytes),
    }


def _ahead(
    model: PreTrainedModel,
    policy: Policy,
    asked: Sequence[Prompt],
    finished: Finished,
    chunk: int | None,
    make_batch: BatchMaker,
) -> Foreseen:
    """What the policy must know before the first token; the full cache's answer stands for what will be generated."""
    if policy.foresees is None:
        return Foreseen(None, 0, 0)
    answers: list[tuple[int, ...]] = [()] * len(asked)
    if policy.foresees == "future" and any(prompt.new_tokens for prompt in asked):
        alone = [Group((place,), len(prompt.context), place) for place, prompt in enumerate(asked)]
        found, _ = read(model, make_policy("full"), asked, alone, finished, chunk, make_batch=make_batch)
        answers = [found[place].tokens[:-1] for place in range(len(asked))]  # the last one is never fed
    contexts, questions = ([getattr(prompt, part) for prompt in asked] for part in ("context", "question"))

    def begin(memory: Memory) -> Batch:
        return make_batch(model, memory, chunk, asked)

    return foresee(model, policy, contexts, questions, chunk, answers, begin)


def _grades(asked: Sequence[Prompt]) -> Grades:
    """What is told of every prompt alike; tokens that one has not are as good as later ones."""
    names = set.intersection(*(set(prompt.grades) for prompt in asked))
    longest = max(len(prompt.context) for prompt in asked)
    found = {name: torch.full((len(asked), longest), torch.inf) for name in names}
    for name, grades in found.items():
        for row, prompt in enumerate(asked):
            told = prompt.grades[name]
            if len(told) != len(prompt.context):
                raise DataError(
                    f"Expected a grade by {name!r} for each of the context's {len(prompt.context)} tokens, found "
                    f"{len(told)}; +inf stands for what is surely kept."
                )
            grades[row, : len(told)] = torch.tensor(told)
    return Grades(found)


class _Clock:
    """Wall time between laps, waiting for a GPU to finish."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = self._now()

    def lap(self) -> float:
        """Seconds since the last lap."""
        last, self.last = self.last, self._now()
        return self.last - last

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _kept(memory: Memory, row: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    return tuple(
        tuple(tuple(p for p in head if p >= 0) for head in memory.kept_positions(layer)[row].tolist())
        for layer in sorted(memory.layers)
    )


def _generate(
    batch: Batch, logits: Float[Tensor, "rows vocab"], limits: Sequence[int], finished: Finished
) -> list[list[int]]:
    """Greedy answers; the last token of one is never fed back."""
    tokens: list[list[int]] = [[] for _ in limits]
    active = [row for row, limit in enumerate(limits) if limit]
    if not active:
        return tokens
    logits = logits[torch.tensor(active, device=logits.device)]
    batch.select(active)
    while True:
        for row, token in zip(active, logits.argmax(-1).tolist(), strict=True):
            tokens[row].append(token)
        going = [place for place, row in enumerate(active) if not _whole(tokens[row], limits[row], finished)]
        active = [active[place] for place in going]
        if not active:
            return tokens
        batch.select(going)
        logits = batch.feed([[tokens[row][-1]] for row in active])


def _whole(tokens: list[int], limit: int, finished: Finished) -> bool:
    return len(tokens) >= limit or finished(tokens)
