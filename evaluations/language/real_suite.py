"""`--suite real`: what a real language model is asked, in one word.

RULER at three lengths, needles by depth, long real text, the next line, and questions about real documents, everything
scored by the likelihood of what is right, at two intervals, with the question after the context and before it. Every
option given beside the suite wins over it.
"""

from __future__ import annotations

from typing import Any

import torch

from evaluations.tasks.text.ruler import Ruler
from evaluations.tasks.text.ruler_questions import QUESTION_FILES
from modalities.pretrained.precision import quick_dtype

RULER = tuple(f"ruler/{task}" for task in Ruler.tasks if task not in QUESTION_FILES)
"""Those that need no files; with SQuAD's and HotpotQA's (`--data`), all 13."""
TASKS = (*RULER, "niah", "corpus/perplexity", "corpus/next-line", "documents")
RIVALS = ("keydiff", "tova", "h2o_age", "snapkv", "sink_window", "random")

SUITES: dict[str, dict[str, Any]] = {
    "real": {
        "model": "smollm2",
        "tasks": TASKS,
        "policy": ("full", "namm:source", "namm:sequence", *RIVALS),
        "lengths": (1024, 2048, 4096),
        "context_tokens": (1024, 2048, 4096),
        "intervals": (64, 512),
        "questions": ("after", "before"),
        "answers": "likelihood",
        "texts": "packages",
        "samples": 24,
        "prompts": 24,
        "depths": (0, 25, 50, 75, 100),
        "batch": 8,
        "example_tokens": 1100,
    }
}
"""Options by suite."""

QUICK: dict[str, dict[str, Any]] = {
    "real": {
        "tasks": ("ruler/niah_single_1", "ruler/niah_multikey_1", "corpus/perplexity", "documents/function"),
        "policy": ("full", "namm:source", "keydiff", "window"),
        "lengths": (640,),
        "context_tokens": (640,),
        "intervals": (64,),
        "questions": ("after",),
        "samples": 4,
        "prompts": 4,
    }
}
"""What is different in the short form: minutes on two cores."""


def suite_options(name: str, quick: bool, data: str | None, device: str = "cpu") -> dict[str, Any]:
    """The options that a suite stands for.

    Args:
        name: One of `SUITES`.
        quick: Whether the short form is wanted.
        data: Folder with question files, where it was given: then RULER's question tasks are asked too.
        device: Where the model will be.
    """
    told = {**SUITES[name], **(QUICK[name] if quick else {}), "dtype": fast_dtype(device)}
    if data is not None and not quick:
        told["tasks"] = ("ruler", *(task for task in told["tasks"] if not task.startswith("ruler/")))
    return told


def fast_dtype(device: str) -> str:
    """The type to compute in: bfloat16, but float32 on a CPU that emulates it.

    Args:
        device: As the user gave it.
    """
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return str(quick_dtype(torch.bfloat16, where)).removeprefix("torch.")
