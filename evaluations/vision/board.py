"""What the dashboards show of video's rows: how each question was answered, what was kept of the evidence, and time."""

from __future__ import annotations

from evaluations.boards.panels import Board, Number, Panel
from evaluations.vision.filmstrip import example

BOARD = Board(
    sections=(
        (
            "Questions",
            (
                Panel("Score of each question", "trials", ("question/score",), "question/index", y_title="score"),
                Panel(
                    "Evidence still held",
                    "trials",
                    ("question/evidence_kept",),
                    "question/index",
                    y_title="share of its slots",
                    help="Of the frames that show the answer, when the question comes.",
                ),
            ),
        ),
        (
            "Memory",
            (
                Panel("Evidence still held", "bars", ("evidence_kept",), x_title="share of its slots", percent=True),
                Panel("What is kept of each frame", "media", ("memory",)),
            ),
        ),
        (
            "Time",
            (
                Panel("Encoding all clips once", "bars", ("vision_seconds",), x_title="seconds, shared by policies"),
                Panel("Reading all clips", "bars", ("prefill_seconds",), x_title="seconds, updates included"),
                Panel("Answering all questions", "bars", ("decode_seconds",), x_title="seconds, updates included"),
            ),
        ),
    ),
    numbers=(Number("evidence_kept", "evidence %", digits=0, factor=100), Number("prefill_seconds", "prefill s")),
    checkpoints={"model": "model_sha256", "clip": "clip_sha256"},
    group_keys=("model", "model_sha256", "clip"),
    example=example,
)
