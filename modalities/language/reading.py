"""Reads batches of prompts under a policy: contexts first, then questions, then greedy answers or scores of tokens.

Prompts of a batch may have any lengths (left padding). A beginning that several share is read once; then the memory is
forked, a row for each. Every token, also a scored one, passes through the evicting memory. A row that has its answer
leaves the batch.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach, cache_name, cache_of
from modalities.language.prompts import IGNORED, Group, Prompt
from namm.memory import Memory
from namm.policies import Policy

Finished = Callable[[list[int]], bool]
"""Whether generated tokens are a whole answer."""


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
    """Reading contexts and questions, updates included."""
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

    Returns:
        The answer of every member by place, and what the batch cost.
    """
    places = [place for group in groups for place in group.members]
    asked = [prompts[place] for place in places]
    with attach(model, policy) as memory:
        memory.identities = torch.tensor([group.identity for group in groups])
        batch = _Batch(model, memory, chunk)
        clock = _Clock(model.device)
        batch.feed([prompts[group.members[0]].context[: group.shared] for group in groups])
        batch.select([row for row, group in enumerate(groups) for _ in group.members])
        rest = [prompts[place].context[group.shared :] for group in groups for place in group.members]
        if any(rest):
            batch.feed(rest)
        held, then = memory.slots(), memory.report()
        kept = {place: _kept(memory, row) for row, place in enumerate(places) if place in traced}
        logits, scores = batch.ask([prompt.question for prompt in asked], [prompt.targets for prompt in asked])
        held_after = memory.slots()
        prefill_seconds = clock.lap()
        tokens = _generate(batch, logits, [prompt.new_tokens for prompt in asked], finished)
        decode_seconds = clock.lap()
        now = memory.report()
        policy_seconds = memory.update_seconds() if model.device.type == "cpu" else None
    answers = {
        place: Answer(
            tuple(tokens[row]), *scores[row], len(asked[row].context), held[row], held_after[row], kept.get(place)
        )
        for row, place in enumerate(places)
    }
    costs = Costs(
        prompts=len(places),
        prefill_seconds=prefill_seconds,
        decode_seconds=decode_seconds,
        policy_seconds=policy_seconds,
        decoded_tokens=sum(map(len, tokens)),
        cache_bytes=then.cache_bytes,
        peak_cache_bytes=now.peak_cache_bytes,
        state_bytes=then.state_bytes,
        peak_state_bytes=now.peak_state_bytes,
        evicted=now.evicted,
    )
    return answers, costs


class _Batch:
    """Rows of one attached model: feeds them further tokens, copies and drops them."""

    def __init__(self, model: PreTrainedModel, memory: Memory, chunk: int | None) -> None:
        self.model, self.memory, self.chunk = model, memory, memory.policy.eager_chunk or chunk
        known = inspect.signature(model.forward).parameters
        self.takes_positions, self.keeps_logits = "position_ids" in known, "logits_to_keep" in known
        self.name = cache_name(model)
        self.cache: Any = None
        self.mask: Int[Tensor, "rows columns"] = torch.zeros(0, 0, dtype=torch.long)

    def feed(self, parts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocab"]:
        """Logits of the last column; parts are padded on the left."""
        return self.ask(parts, [()] * len(parts))[0]

    def ask(
        self, parts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> tuple[Float[Tensor, "rows vocab"], list[tuple[tuple[int, ...], tuple[bool, ...], tuple[float, ...]]]]:
        """Logits of the last column, and each row's choices, hits and log-likelihoods of the tokens that it asks for.

        Args:
            parts: Further tokens of each row.
            targets: The token to predict after each, IGNORED where nothing is asked; empty where nothing at all is.
        """
        rows, columns = len(parts), max(map(len, parts))
        ids, new = torch.zeros(rows, columns, dtype=torch.long), torch.zeros(rows, columns, dtype=torch.long)
        wanted = torch.full((rows, columns), IGNORED)
        for row, (part, asked) in enumerate(zip(parts, targets, strict=True)):
            if part:
                ids[row, columns - len(part) :] = torch.tensor(part)
                new[row, columns - len(part) :] = 1
            if asked:
                wanted[row, columns - len(asked) :] = torch.tensor(asked)
        before = self.mask.sum(1, keepdim=True) if self.mask.shape[1] else 0
        positions = (before + new.cumsum(1) - 1).clamp_min(0)
        self.mask = torch.cat([self.mask, new], dim=1) if self.mask.shape[1] else new
        done = self.mask.shape[1] - columns
        step = columns if self.chunk is None else self.chunk
        device = self.model.device
        choices, likelihoods = torch.zeros_like(wanted), torch.zeros(rows, columns)
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            named: dict[str, Any] = {self.name: self.cache, "use_cache": True}
            if self.takes_positions:
                named["position_ids"] = positions[:, start:stop].to(device)
            place = wanted[:, start:stop] != IGNORED
            if self.keeps_logits:
                named["logits_to_keep"] = stop - start if bool(place.any()) else 1
            out = self.model(
                input_ids=ids[:, start:stop].to(device), attention_mask=self.mask[:, : done + stop].to(device), **named
            )
            self.cache = cache_of(out)
            if bool(place.any()):
                choice, likelihood = _scores(out.logits[place.to(device)], wanted[:, start:stop][place].to(device))
                choices[:, start:stop][place], likelihoods[:, start:stop][place] = choice.cpu(), likelihood.cpu()
        asks = wanted != IGNORED
        told = (choices, choices == wanted, likelihoods)
        scores = [tuple(tuple(each[row, asks[row]].tolist()) for each in told) for row in range(rows)]
        return out.logits[:, -1], scores

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; one may appear more than once."""
        if list(rows) == list(range(self.mask.shape[0])):
            return
        index = torch.tensor(rows)
        self.memory.select_sequences(index)
        self.mask = self.mask[index]


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


def _scores(
    logits: Float[Tensor, "tokens vocab"], wanted: Int[Tensor, " tokens"]
) -> tuple[Int[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """The first choices, and the log-likelihood of what was wanted."""
    logits = logits.float()
    return logits.argmax(-1), logits.log_softmax(-1).gather(1, wanted[:, None]).squeeze(1)


def _generate(
    batch: _Batch, logits: Float[Tensor, "rows vocab"], limits: Sequence[int], finished: Finished
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
