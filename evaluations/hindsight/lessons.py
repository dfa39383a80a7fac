"""Prompts that hindsight learns from: benchmarks with answers, running text, and recall tasks for the small source.

A lesson is a whole sequence of tokens, some of which are wanted: the answer's, or all of a running text. Which prompts
a split may use is decided by seeds and, for documents, by their names; reported figures never come from these seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluations.hindsight.recording import Lesson
from evaluations.tasks.recall.tasks import get_task, train_seed
from evaluations.tasks.recall.corpus import Split, read_documents, split_of_document
from evaluations.tasks.text import benchmark_tasks, make_benchmark
from namm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS = "documents"
"""Name of running text among the tasks."""

CHARACTERS_A_TOKEN = 8
"""Characters that surely hold a token's worth of text, for cutting before tokenising."""


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
    course: Course, tokenizer: PreTrainedTokenizerBase | None, count: int, seed: int, split: Split = "train"
) -> list[Lesson]:
    """So many lessons, tasks in turn.

    Args:
        course: What they are drawn from.
        tokenizer: The source's; None for a source that reads recall tasks alone.
        count: How many.
        seed: Decides prompts, lengths and intervals; benchmarks are drawn with seeds of their own above 1,000.
        split: Whose documents are read.
    """
    draw = np.random.default_rng([seed, 7])
    drawn = []
    for place in range(count):
        task = course.tasks[place % len(course.tasks)]
        length, interval = int(draw.choice(course.lengths)), int(draw.choice(course.intervals))
        ids, wanted = _one(task, tokenizer, length, 1000 * (seed + 1) + place, split)
        drawn.append(Lesson(tuple(ids), tuple(wanted), interval, task))
    return drawn


def _one(
    task: str, tokenizer: PreTrainedTokenizerBase | None, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool]]:
    if task == DOCUMENTS or "/" in task:
        if tokenizer is None:
            raise ConfigError(f"Lessons of {task} need a tokenizer beside the model; found none.")
        return (_document if task == DOCUMENTS else _benchmark)(task, tokenizer, length, seed, split)
    prompts = get_task(task).sample(1, length, train_seed(seed))
    context, question, target = (part[0].tolist() for part in (prompts.context, prompts.question, prompts.target))
    after = [wanted >= 0 for wanted in target]
    ids = [*context, *question, target[-1] if after[-1] else question[-1]]
    return ids, [False] * (len(context) + 1) + after


def _benchmark(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool]]:
    """A prompt and its answer; the answer is wanted."""
    [(benchmark, name)] = benchmark_tasks([task])
    item = make_benchmark(benchmark, None, lengths=(length,), samples=1).items(name, tokenizer, seed=seed)[0]
    prompt = tokenizer(item.prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(" " + " ".join(item.answers), add_special_tokens=False)["input_ids"]
    return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)


def _document(
    task: str, tokenizer: PreTrainedTokenizerBase, length: int, seed: int, split: Split
) -> tuple[Sequence[int], Sequence[bool]]:
    """A piece of a document; every token but the first is wanted."""
    pieces = list(_long_documents(split, length * CHARACTERS_A_TOKEN))
    if not pieces:
        raise DataError(f"Expected {split} documents of {length * CHARACTERS_A_TOKEN} characters, found none.")
    draw = np.random.default_rng(seed)
    text = pieces[int(draw.integers(len(pieces)))]
    start = int(draw.integers(len(text) - length * CHARACTERS_A_TOKEN + 1))
    ids = tokenizer(text[start : start + length * CHARACTERS_A_TOKEN], add_special_tokens=False)["input_ids"][:length]
    return ids, [False] + [True] * (len(ids) - 1)


def _long_documents(split: Split, characters: int) -> Iterator[str]:
    for name, text in read_documents():
        if split_of_document(name) == split and len(text) >= characters:
            yield text
