"""Prompts with known answers for learning: benchmarks, running text, and recall tasks for the small source.

A lesson is a whole sequence of tokens, some of which are wanted: the answer's, or all of a running text. Which prompts
a split may use is decided by seeds and, for documents, by their names; reported figures never come from these seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from evaluations.tasks.recall.corpus import Split, read_documents, split_of_document
from evaluations.tasks.recall.tasks import get_task, test_seed, train_seed, validation_seed
from evaluations.tasks.text import benchmark_tasks, make_benchmark
from modalities.language.prompts import IGNORED
from namm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS = "documents"
"""Name of running text among the tasks."""

CHARACTERS_A_TOKEN = 8
"""Characters that surely hold a token's worth of text, for cutting before tokenising."""

BENCHMARK_SEEDS = {"train": 0, "validation": 2 * 10**9, "test": 4 * 10**9}
"""What is added to a prompt's seed, which is 1,000 to 10^9, where a benchmark is generated."""

RECALL_SEEDS = {"train": train_seed, "validation": validation_seed, "test": test_seed}

ASKED_OF_A_DOCUMENT = 96
"""Last tokens of running text that are asked for, its context read."""


@dataclass(frozen=True)
class Lesson:
    """One prompt, whole, with its answer."""

    ids: tuple[int, ...]
    """Its tokens."""

    wanted: tuple[bool, ...]
    """Those whose likelihood counts: the answer's, or all of running text."""

    context: int
    """Tokens before the question."""

    interval: int
    """Tokens between updates."""

    task: str
    """Where it comes from."""

    def asked(self) -> tuple[Int[Tensor, "one context"], Int[Tensor, "one question"], Int[Tensor, "one question"]]:
        """Context, question with its answer, and the token to predict after each of its tokens (IGNORED: none)."""
        ids = torch.tensor(self.ids)[None]
        after = ids[:, 1:].masked_fill(~torch.tensor(self.wanted)[None, 1:], IGNORED)
        return ids[:, : self.context], ids[:, self.context : -1], after[:, self.context :]


@dataclass(frozen=True)
class Course:
    """What lessons are drawn from one source."""

    tasks: tuple[str, ...]
    """NAME/TASK of benchmarks, names of recall tasks, or "documents"."""

    lengths: tuple[int, ...]
    """Tokens of a prompt; one is drawn for each."""

    intervals: tuple[int, ...]
    """Update intervals; one is drawn for each."""

    chunk: int
    """Queries that share a derivative; every interval is a multiple."""

    def __post_init__(self) -> None:
        for interval in self.intervals:
            if interval % self.chunk or interval * 2 > min(self.lengths):
                raise ConfigError(
                    f"Every interval must be a multiple of the chunk ({self.chunk}) and at most half of the shortest "
                    f"prompt ({min(self.lengths)}), found {interval}."
                )


def draw_lessons(
    course: Course,
    tokenizer: PreTrainedTokenizerBase | None,
    count: int,
    seed: int,
    split: Split = "train",
    first: int = 0,
) -> list[Lesson]:
    """So many lessons, tasks in turn.

    Args:
        course: What they are drawn from.
        tokenizer: The source's; None for a source that reads recall tasks alone.
        count: How many.
        seed: Decides prompts, lengths and intervals, up to a million.
        split: Whose seeds and documents are used; none of them are the seeds that the text suites use.
        first: Task to begin with.
    """
    draw = np.random.default_rng([seed, 7])
    drawn = []
    for place in range(count):
        task = course.tasks[(first + place) % len(course.tasks)]
        length, interval = int(draw.choice(course.lengths)), int(draw.choice(course.intervals))
        ids, wanted, context = _one(task, tokenizer, length, 1000 * (seed + 1) + place, split)
        drawn.append(Lesson(tuple(ids), tuple(wanted), context, interval, task))
    return drawn


def _one(
    task: str, tokenizer: PreTrainedTokenizerBase | None, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool], int]:
    if task == DOCUMENTS or "/" in task:
        if tokenizer is None:
            raise ConfigError(f"Lessons of {task} need a tokenizer beside the model; found none.")
        return (_document if task == DOCUMENTS else _benchmark)(task, tokenizer, length, seed, split)
    prompts = get_task(task).sample(1, length, RECALL_SEEDS[split](seed % 2**30))
    context, question, target = (part[0].tolist() for part in (prompts.context, prompts.question, prompts.target))
    after = [wanted >= 0 for wanted in target]
    ids = [*context, *question, target[-1] if after[-1] else question[-1]]
    return ids, [False] * (len(context) + 1) + after, len(context)


def _benchmark(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool], int]:
    """A prompt and its answer; the answer is wanted."""
    [(benchmark, name)] = benchmark_tasks([task])
    item = make_benchmark(benchmark, None, lengths=(length,), samples=1).items(
        name, tokenizer, seed=seed + BENCHMARK_SEEDS[split]
    )[0]
    prompt = tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(" " + " ".join(item.answers), add_special_tokens=False)["input_ids"]
    before = item.prompt[: item.context_end] if item.context_end else item.prompt
    context = min(len(tokenizer(before, add_special_tokens=False)["input_ids"]), len(prompt) - 1)
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer), context


def _document(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool], int]:
    """A piece of a document; every token but the first is wanted."""
    pieces = list(_long_documents(split, length * CHARACTERS_A_TOKEN))
    if not pieces:
        raise DataError(f"Expected {split} documents of {length * CHARACTERS_A_TOKEN} characters, found none.")
    draw = np.random.default_rng(seed)
    text = pieces[int(draw.integers(len(pieces)))]
    start = int(draw.integers(len(text) - length * CHARACTERS_A_TOKEN + 1))
    ids = tokenizer(text[start : start + length * CHARACTERS_A_TOKEN], add_special_tokens=False)["input_ids"][:length]
    return ids, [False] + [True] * (len(ids) - 1), len(ids) - ASKED_OF_A_DOCUMENT


def _long_documents(split: Split, characters: int) -> Iterator[str]:
    for name, text in read_documents():
        if split_of_document(name) == split and len(text) >= characters:
            yield text
