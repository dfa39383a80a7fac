"""One question in full, as a row tells it: the frames as small pictures, and how much was kept of each.

trace   id, question, expected, said, right, seconds (of each frame), frames (JPEG, base64), kept (share of each frame's
        slots), evidence (places of frames that show the answer), relevance, novelty and words (null without a CLIP)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from evaluations.vision.watching import Watched

EDGE = 64
"""Pixels of a small picture's longer edge."""


def told_trace(watched: Watched, kept: Float[Tensor, " frames"], said: str, labels: Sequence[str]) -> dict[str, Any]:
    """The trace of a question.

    Args:
        watched: That was asked.
        kept: Share of each frame's slots.
        said: The answer.
        labels: Words that frames are named by.
    """
    judged = watched.judged
    return {
        "id": watched.item.id,
        "question": watched.item.question,
        "expected": watched.item.answer,
        "said": said,
        "seconds": [round(second, 3) for second in watched.clip.seconds],
        "frames": [_jpeg(frame) for frame in watched.clip.frames],
        "kept": [round(share, 4) for share in kept.tolist()],
        "evidence": list(watched.evidence),
        "relevance": None if judged is None else [round(value, 4) for value in judged.relevance.tolist()],
        "novelty": None if judged is None else [round(value, 4) for value in judged.novelty.tolist()],
        "words": None if judged is None else [labels[word] for word in judged.words],
    }


def _jpeg(frame: UInt8[np.ndarray, "height width 3"]) -> str:
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((EDGE, EDGE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()
