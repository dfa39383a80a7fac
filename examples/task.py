"""A task of your own in one file, asked of every policy you name: `python examples/task.py`.

Evidence is hidden in a long context and asked for at the end; what is hidden is all that a task says. From a package of
yours it needs no script: name it as an entry point of the group `namm.tasks`, and `namm-text --tasks overwritten` knows
it. Benchmarks with data, video tasks and control targets go the same way (CONTRIBUTING.md).
"""

from __future__ import annotations

import sys

import numpy as np

from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.filler import Filler
from evaluations.tasks.recall.tasks import TASKS, Evidence, TextTask, statements


@TASKS.register
class Overwritten(TextTask):
    """Eight keys, each told a value; half of them are told another one later, and the last one told counts."""

    name = "overwritten"

    def evidence(
        self, rng: np.random.Generator, vocabulary: RecallVocabulary, context_tokens: int, filler: Filler
    ) -> Evidence:
        """What is hidden, in order, and what is asked."""
        keys = rng.choice(vocabulary.keys, 8, replace=False)
        first, second = rng.choice(vocabulary.values, (2, 8), replace=False)
        told = [np.array(pair) for pair in zip(keys, first, strict=True)]
        told += [np.array(pair) for pair in zip(keys[:4], second[:4], strict=True)]
        last = np.concatenate([second[:4], first[4:]])
        order = rng.permutation(8)
        return statements(told, list(keys[order, None]), list(last[order, None]))


def main(argv: list[str]) -> int:
    """The command `namm-text`, which now knows it; options given here win."""
    from evaluations.text import main as namm_text  # after the task has its name

    short = ["--prompts", "8", "--policy", "full", "namm", "h2o", "window", "--out", "results/task"]
    return namm_text(["--tasks", "overwritten", *short, "--example-tokens", "0", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
