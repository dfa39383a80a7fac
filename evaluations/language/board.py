"""What the dashboards show of language's rows: how each prompt was answered, and how long it took."""

from __future__ import annotations

from evaluations.boards.panels import Board, Number, Panel
from evaluations.language.example_text import example

BOARD = Board(
    sections=(
        (
            "Prompts",
            (
                Panel("Score of each prompt", "trials", ("prompt/score",), "prompt/index", y_title="score"),
                Panel(
                    "Slots when the question comes",
                    "trials",
                    ("prompt/slots",),
                    "prompt/index",
                    y_title="slots per KV head",
                ),
            ),
        ),
        (
            "Memory",
            (
                Panel("Reading all prompts", "bars", ("prefill_seconds",), x_title="seconds, updates included"),
                Panel("Answering all prompts", "bars", ("decode_seconds",), x_title="seconds, updates included"),
            ),
        ),
    ),
    numbers=(Number("prefill_seconds", "prefill s"), Number("decode_seconds", "decode s")),
    checkpoints={"model": "model_sha256"},
    group_keys=("model", "model_sha256", "data_sha256", "context_tokens"),
    example=example,
)
