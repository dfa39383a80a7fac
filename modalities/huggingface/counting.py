"""Positions of models that count pictures in several dimensions (M-RoPE: Qwen-VL and its kin), for a cache each.

Such a model numbers a picture's tokens by time, row and column, so that the text behind it has smaller numbers than
tokens were read. How far it is behind the model keeps for one batch, the last one (``rope_deltas``). A memory may hold
others: a cache copied for another question, rows that left. So each cache keeps its own and gives it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from namm.errors import AttachError

if TYPE_CHECKING:
    from modalities.huggingface.cache import MemoryCache

DIMENSIONS = 3
"""Of the positions that a caller makes by itself; `generate` puts one more before them, and has one alone where it goes
on from a cache."""


class PictureCounter:
    """Keeps a model's count and a cache's the same, before and after each call."""

    def __init__(self, model: PreTrainedModel) -> None:
        """A counter; idle for models that count tokens alone."""
        self.part: Any = next((part for part in model.modules() if hasattr(part, "rope_deltas")), None)
        self.caller_counts = False

    def before(self, cache: MemoryCache, asked: dict[str, Any], seen: Tensor) -> None:
        """Gives the model the count of the sequences that go on.

        Args:
            cache: Theirs.
            asked: The call's arguments.
            seen: Tokens of each sequence so far.

        Raises:
            AttachError: The call's positions were made of another batch's count.
        """
        if self.part is None:
            return
        positions = asked.get("position_ids")
        shaped = isinstance(positions, Tensor) and positions.dim() == 3
        self.caller_counts = isinstance(positions, Tensor) and not (shaped and positions.shape[0] != DIMENSIONS)
        if not cache.get_seq_length():
            if positions is None:
                self.part.rope_deltas = None  # another batch's; the model counts anew where there are pictures
            return
        if self.caller_counts:
            return
        if cache.behind is None:
            if cache.caller_counted:
                raise AttachError(
                    "Expected position_ids, as earlier calls of these sequences had, found none: the model does not "
                    "know how far their text is behind their pictures. Go on giving them."
                )
            return
        self.part.rope_deltas = cache.behind
        if not isinstance(positions, Tensor) or positions.shape[0] != 1 or _shows_pictures(asked):
            return
        wanted = (seen + _new(asked, positions)).cpu() + cache.behind.flatten().cpu() - 1
        found = positions[-1, :, -1].cpu()
        if wanted.shape == found.shape and not torch.equal(wanted, found):
            raise AttachError(
                f"Expected positions up to {wanted.tolist()}, behind the pictures of these sequences, found "
                f"{found.tolist()}: the model has read others since, and generate() counts on from those. Generate "
                "from a cache before the model reads other pictures, or give position_ids to plain calls."
            )

    def after(self, cache: MemoryCache) -> None:
        """Keeps the count of the sequences that were read.

        Args:
            cache: Theirs.
        """
        if self.part is None:
            return
        cache.caller_counted, cache.behind = self.caller_counts, None
        deltas = self.part.rope_deltas
        rows = cache.memory.seen.shape[0]
        if not self.caller_counts and deltas is not None and deltas.shape[0] and rows % deltas.shape[0] == 0:
            cache.behind = deltas.repeat_interleave(rows // deltas.shape[0], dim=0)


def _new(asked: dict[str, Any], positions: Tensor) -> Tensor | int:
    """Tokens of each row of a call, padding aside."""
    mask, columns = asked.get("attention_mask"), positions.shape[-1]
    return mask[:, -columns:].sum(1).cpu() if isinstance(mask, Tensor) and mask.dim() == 2 else columns


def _shows_pictures(asked: dict[str, Any]) -> bool:
    return any(name.startswith("pixel_values") for name in asked) or bool(asked.get("mm_encoder_outputs"))
