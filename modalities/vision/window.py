"""How long a video fits the window that a language model was trained on, and what stretches it.

LLaVA-NeXT-Video's own demonstration turns positions slower by a factor that follows from the number of frames. Its
checkpoint in Hugging Face's format has the factor where transformers does not read it, so that it runs beyond its
window unscaled without a word: here the factor is explicit, a fact for rows, and going past the window is told.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from modalities.huggingface.rope import LinearRope, scaled_rope
from namm.errors import ConfigError

ROOM = 1000
"""Tokens beside the pictures that the demonstration leaves room for."""


@dataclass(frozen=True)
class Window:
    """What a language model was trained to read, as its configuration says."""

    tokens: int | None
    """Positions, stretching included; None where the configuration does not say."""
    scaling: str
    """How positions are encoded, in words: "default", "linear 2.0"."""
    unread: str | None
    """A scaling that the configuration holds in a place where transformers does not read it."""

    def facts(self) -> dict[str, Any]:
        """For a row."""
        return {"window": self.tokens, "rope": self.scaling, "rope_unread": self.unread}


def window_of(model: PreTrainedModel) -> Window:
    """The window of a model's language part."""
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope if "rope_type" in rope else next((one for one in rope.values() if isinstance(one, dict)), {})
    kind, factor = str(rope.get("rope_type", "default")), float(rope.get("factor") or 1.0)
    tokens = getattr(config, "max_position_embeddings", None)
    if tokens is not None and kind in ("linear", "dynamic"):
        tokens = int(tokens * factor)
    named = config.to_dict()
    unread = None
    if kind == "default" and isinstance(named.get("factor"), int | float):
        unread = f"{named.get('type', 'linear')} {float(named['factor'])}"
    return Window(tokens, kind if kind == "default" else f"{kind} {factor}", unread)


def linear_factor(frames: int, tokens_per_frame: int, window: int, room: int = ROOM) -> float:
    """The factor that LLaVA-NeXT-Video's demonstration stretches the window by.

    Args:
        frames: Of the video.
        tokens_per_frame: Of each, in the language model.
        window: Tokens that it was trained to read.
        room: Tokens for what is said beside the video.

    Raises:
        ConfigError: A size that is none.
    """
    if min(frames, tokens_per_frame, window) < 1 or room < 0:
        raise ConfigError(
            f"Expected at least one frame, token and position, found {frames}, {tokens_per_frame}, {window}, {room}."
        )
    return float(max(1, math.ceil((frames * tokens_per_frame + room) / window)))


def check_window(model: PreTrainedModel, tokens: int, factor: float = 1.0) -> str | None:
    """What there is to say of a prompt that is longer than the window; it is warned of, too.

    Args:
        model: The model, before it is scaled.
        tokens: Of the longest prompt, with its answer.
        factor: By which its window is stretched besides (`stretched`).

    Returns:
        The warning; None where the prompt fits.
    """
    window = window_of(model)
    if window.tokens is None or tokens <= window.tokens * factor:
        return None
    wanted = math.ceil(tokens / window.tokens)
    held = (
        f" Its configuration has {window.unread!r}, but where transformers does not read it." if window.unread else ""
    )
    said = (
        f"{type(model).__name__} was trained to read {window.tokens} tokens (positions {window.scaling}) and is given "
        f"{tokens}, stretched by {factor:g}: what it answers is not what its makers measured.{held} Stretch its window "
        f"by {wanted} (linear), or show fewer frames."
    )
    warnings.warn(said, stacklevel=2)
    return said


@contextmanager
def stretched(model: PreTrainedModel, factor: float) -> Iterator[None]:
    """Linear scaling of the language part's positions for the length of a block.

    Args:
        model: A vision-language model; its tower is left alone.
        factor: Positions turn so many times slower; 1 leaves the model as it is.

    Raises:
        ConfigError: The factor is below 1.
        AttachError: The model's positions are scaled already, or are not rotary.
    """
    if factor == 1.0:
        yield
        return
    with scaled_rope(model, LinearRope(factor)):
        yield
