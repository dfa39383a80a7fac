"""Which token of a prompt is what: text, or a place (row and column) in a frame. For reports and for policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from namm.errors import DataError

TEXT = -1
"""In the place of a frame, row or column: the token is none of a frame's."""


@dataclass(frozen=True, eq=False)
class TokenPlaces:
    """Of each token of a context; later tokens are text."""

    frame: Int[Tensor, " tokens"]
    """Which frame it belongs to, counted over all pictures of the prompt; TEXT where none. A token that several frames
    share (Qwen-VL merges two) names the first."""
    row: Int[Tensor, " tokens"]
    column: Int[Tensor, " tokens"]
    frames: int
    """How many there are."""
    frames_per_token: int = 1
    """How many consecutive frames a token shows."""

    def frame_tokens(self) -> Int[Tensor, " frames"]:
        """Tokens of each frame; frames that share theirs have the same number."""
        return self.counted(torch.arange(self.frame.shape[0]))

    def counted(self, positions: Int[Tensor, " some"]) -> Int[Tensor, " frames"]:
        """How many of these tokens show each frame.

        Args:
            positions: Of tokens, counted from the beginning of the prompt; those behind the context are text.
        """
        inside = positions[(positions >= 0) & (positions < self.frame.shape[0])]
        frame = self.frame[inside]
        frame = frame[frame != TEXT]
        counts = torch.zeros(self.frames + self.frames_per_token, dtype=torch.long)
        for later in range(self.frames_per_token):
            counts.index_add_(0, frame + later, torch.ones_like(frame))
        return counts[: self.frames]

    def text_counted(self, positions: Int[Tensor, " some"]) -> int:
        """How many of these tokens are text."""
        inside = positions[positions >= 0]
        known = inside[inside < self.frame.shape[0]]
        return int((self.frame[known] == TEXT).sum()) + int((inside >= self.frame.shape[0]).sum())

    def kept_by_frame(self, kept: Sequence[Sequence[Sequence[int]]]) -> Int[Tensor, "layers kv_heads frames"]:
        """Slots that each layer and KV head holds of each frame.

        Args:
            kept: Positions held by layer and KV head, as `Answer.kept`.
        """
        return torch.stack(
            [torch.stack([self.counted(torch.tensor(head, dtype=torch.long)) for head in layer]) for layer in kept]
        )


def places_of(
    is_picture: Sequence[bool], frames: int, grids: Sequence[tuple[int, int, int]] | None, shape: tuple[int, int]
) -> TokenPlaces:
    """Places of a context's tokens.

    Args:
        is_picture: Whether a token is a placeholder.
        frames: How many frames the pictures have together.
        grids: Steps in time, rows and columns of each picture's tokens, where the model says them.
        shape: Height and width of the frames as the tower sees them, where it does not: tokens of a frame lie in rows.

    Raises:
        DataError: The placeholders are not so many for each frame.
    """
    total = sum(is_picture)
    if grids is None:
        each, over = divmod(total, frames)
        if over > 1:  # LLaVA-OneVision ends a video with one token of its own
            raise DataError(
                f"Expected as many tokens for each of {frames} frames, found {total} in all; was the prompt cut?"
            )
        rows = _rows(each, shape)
        grids = [(frames, rows, each // rows)]
    steps = sum(grid[0] for grid in grids)
    per_token = max(1, -(-frames // steps))
    frame, row, column, done = [], [], [], 0
    for times, rows, columns in grids:
        for step in range(times):
            for place in range(rows * columns):
                frame.append((done + step) * per_token)
                row.append(place // columns)
                column.append(place % columns)
        done += times
    found = torch.full((3, len(is_picture)), TEXT)
    where = torch.tensor(is_picture).nonzero()[: len(frame), 0]
    if len(where) != len(frame):
        raise DataError(
            f"Expected {len(frame)} tokens of {frames} frames, found {total}; the prompt was cut, or holds placeholder "
            "words of its own. Read it without truncation."
        )
    found[:, where] = torch.tensor([frame, row, column])
    return TokenPlaces(found[0], found[1], found[2], frames, per_token)


def _rows(tokens: int, shape: tuple[int, int]) -> int:
    """Rows that a frame's tokens lie in: those closest to the frame's shape that divide them."""
    wanted = (tokens * shape[0] / shape[1]) ** 0.5
    fitting = [rows for rows in range(1, tokens + 1) if tokens % rows == 0]
    return min(fitting, key=lambda rows: abs(rows - wanted), default=1)
