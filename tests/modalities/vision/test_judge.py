"""What a CLIP says of frames becomes grades of tokens; a CLIP without weights is refused."""

from __future__ import annotations

import math

import pytest
import torch

from modalities.vision.judge import NEW, Judge, best_frames, novelty, relevance, token_grades
from modalities.vision.places import TEXT, TokenPlaces
from namm.errors import ConfigError, DataError


def test_frames_are_worth_their_cosines() -> None:
    frames = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert relevance(frames, torch.tensor([0.6, 0.8])).tolist() == pytest.approx([0.6, 0.6, 0.8, -0.6])
    assert novelty(frames).tolist() == [NEW, 0.0, 1.0, 1.0]
    assert best_frames(torch.tensor([0.6, 0.6, 0.8, -0.6]), 2) == [0, 2]  # of equals the earlier
    assert best_frames(torch.tensor([0.1, 0.2]), 9) == [0, 1]
    with pytest.raises(DataError, match="at least one frame"):
        best_frames(torch.tensor([0.1]), 0)


@pytest.mark.parametrize(("per_token", "expected"), [(1, [0.1, 0.1, 0.3]), (2, [0.5, 0.5, 0.3])])
def test_tokens_have_their_frames_worth_and_text_stays(per_token: int, expected: list[float]) -> None:
    """A token that shows two frames is worth as much as the better one."""
    frame = torch.tensor([TEXT, 0, 0, 2])
    places = TokenPlaces(frame, frame, frame, frames=3, frames_per_token=per_token)
    grades = token_grades(places, torch.tensor([0.1, 0.5, 0.3]))
    assert math.isinf(grades[0])
    assert list(grades[1:]) == pytest.approx(expected)


def test_a_clip_with_random_weights_judges_nothing() -> None:
    with pytest.raises(ConfigError, match="ViT-B-32:openai"):
        Judge("ViT-B-32")
