"""Second readings of prompts, for policies that judge by what comes later (:mod:`namm.foresight`).

KVzip wants the context repeated behind itself, the oracle what really follows it. Both are read under a full cache,
which notes the largest attention that each token gets; the policy's own memory is told, before it reads the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modalities.huggingface.attach import attach
from modalities.language.batch import Batch
from namm.errors import ConfigError
from namm.foresight import Foresight, Recorder
from namm.memory import Memory
from namm.policies import Policy
from namm.policies.kvzip import KVzip

INTERVAL = 512
"""Tokens between two updates of a pass whose points in time do not matter."""


class Foreseen(NamedTuple):
    """What a second reading has shown, and what it held while it did."""

    foresight: Foresight | None
    peak_cache_bytes: int
    peak_state_bytes: int


@torch.inference_mode()
def foresee(
    model: PreTrainedModel,
    policy: Policy,
    contexts: Sequence[Sequence[int]],
    later: Sequence[Sequence[int]],
    chunk: int | None = None,
    likely: Sequence[Sequence[int]] | None = None,
    begin: Callable[[Memory], Batch] | None = None,
) -> Foreseen:
    """Reads a batch of prompts ahead, as the policy wants it.

    Args:
        model: A causal language model, not attached.
        policy: One that foresees something.
        contexts: Token ids of each prompt's context.
        later: What surely follows each: the question, and an answer that is given.
        chunk: Most columns a forward call; None reads a part in one.
        likely: What probably follows that, such as the full cache's answer where one will be generated; another one
            that does come is no mistake.
        begin: What feeds these prompts under a memory; a `Batch` of tokens by default.

    Raises:
        ConfigError: The policy foresees nothing.
    """
    if policy.foresees is None:
        raise ConfigError(f"Expected a policy that reads ahead, such as kvzip, found {policy.name!r}.")
    repeats = isinstance(policy, KVzip)
    interval = None if repeats or policy.selection.schedule == "prompt" else policy.selection.interval
    once = interval is None
    sure = [tuple(context) if repeats else (*context, *after) for context, after in zip(contexts, later, strict=True)]
    if likely is not None and not repeats:
        later = [(*after, *answer) for after, answer in zip(later, likely, strict=True)]
    shown = [tuple(context) if repeats else (*context, *after) for context, after in zip(contexts, later, strict=True)]
    longest = max(map(len, shown))
    points = 1 if interval is None else -(-longest // interval)
    recorder = Recorder(interval or INTERVAL, len(shown), longest, points)
    with attach(model, recorder) as memory:
        batch = Batch(model, memory, chunk) if begin is None else begin(memory)
        recorder.listens = not once  # judged once, after the context: only what comes then is later
        batch.feed(contexts)
        if once:
            memory.judge()
        recorder.listens = True
        if isinstance(policy, KVzip):
            _repeat(policy, recorder, batch, contexts)
        elif any(later):
            batch.feed(later)
        memory.judge()
        held = memory.report()
    foresight = recorder.foresight(torch.tensor([len(ids) for ids in shown]), tuple(sure))
    return Foreseen(foresight, held.peak_cache_bytes, held.peak_state_bytes)


def requests(tokenizer: PreTrainedTokenizerBase, chat: bool = False) -> dict[str, tuple[int, ...]]:
    """Options of the policy ``kvzip`` in which the paper's words ask for the repetition.

    Args:
        tokenizer: Of the model.
        chat: The context lies in a user's turn of the tokenizer's chat template, so that the repetition is to be in the
            assistant's.

    Returns:
        The keys ``request``, ``resume`` and ``answer``.

    Raises:
        ConfigError: The tokenizer has no chat template.
    """
    answer = "\n"
    if chat:
        if not tokenizer.chat_template:
            raise ConfigError("Expected a tokenizer with a chat template, found one without; pass chat=False.")
        marker = "CONTEXT"
        turn = [{"role": "user", "content": marker}]
        # cast: untokenised, one conversation is a string
        asked = cast("str", tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        answer = asked.partition(marker)[2]
    words = {
        "request": "\n\nRepeat the previous context exactly.",
        "resume": "\n\nRepeat the part of the previous context exactly, starting with",
        "answer": answer,
    }
    return {name: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in words.items()}


def _repeat(policy: KVzip, recorder: Recorder, batch: Batch, contexts: Sequence[Sequence[int]]) -> None:
    """Reads the repetition of each context, a part at a time, each behind the context alone."""
    rows = list(range(len(contexts)))
    parts = [policy.repetitions(context) for context in contexts]
    count = max(map(len, parts))
    recorder.sinks = policy.selection.protected_first
    recorder.own = torch.tensor([len(context) for context in contexts])
    for number in range(count):
        last = number == count - 1
        if count > 1:  # attention is shared out within the part, as in the paper
            recorder.among = (number * policy.chunk, (number + 1) * policy.chunk)
        if not last:  # the other half goes on from here
            batch.select(rows * 2)
        said = [row[number][2] if number < len(row) else () for row in parts]
        batch.feed([*said, *([()] * (0 if last else len(rows)))])
        batch.memory.judge()
        if not last:
            batch.select([row + len(rows) for row in rows])
