"""Rendered clips show what their questions ask, the same on every call, and no split sees another's clips."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from evaluations.tasks.video.questions import CHOICES, questions
from evaluations.tasks.video.rendered import BOARD, FRAMES, SQUARE, Clip, Scene, Shape, draw_clip
from namm.errors import ConfigError
from tests.evaluations.tasks.video.watching import answer, watch


@pytest.mark.parametrize("index", range(3))
def test_the_answers_can_be_read_off_the_pixels(index: int) -> None:
    """A reader who knows nothing of the drawing gives every answer and the same evidence frames."""
    clip = draw_clip("validation", index)
    sights = watch(clip.render())
    asked = questions(clip)
    assert {q.kind for q in asked} == set(CHOICES)
    for question in asked:
        assert answer(question.text, sights) == (question.answer, question.evidence), question


@pytest.mark.slow
@pytest.mark.parametrize("index", range(3, 63))
def test_many_more_answers_can_be_read_off_the_pixels(index: int) -> None:
    test_the_answers_can_be_read_off_the_pixels(index)


def test_rendering_is_deterministic() -> None:
    """The bytes of a clip never change: the shipped model's scores are of these clips."""
    frames = draw_clip("test", 0).render()
    assert frames.shape == (FRAMES, 64, 64, 3)
    np.testing.assert_array_equal(frames, draw_clip("test", 0).render())
    assert hashlib.sha256(frames.tobytes()).hexdigest() == DIGEST


DIGEST = "f75421b98a52b8b3c9f875541c91fd6d448c1987e4a9c8ec3a43d99463baf79e"


def test_splits_and_indices_are_different_clips() -> None:
    drawn = [draw_clip(split, index) for split in ("train", "validation", "test") for index in range(3)]
    assert len({hashlib.sha256(clip.render().tobytes()).hexdigest() for clip in drawn}) == 9
    seeds = [scene.seed for clip in drawn for scene in clip.scenes]
    assert len(set(seeds)) == len(seeds)


def test_squares_are_occupied_where_something_bright_is_seen() -> None:
    """The tower is taught by this board, so it must be the one that is drawn."""
    for scene in draw_clip("train", 1).scenes:
        bright = scene.render().max(3).reshape(scene.frames, BOARD, SQUARE, BOARD, SQUARE) > 150
        board = scene.occupied()
        if scene.number is None:  # of a digit some quarters may be dark
            np.testing.assert_array_equal(bright.any((2, 4)), board)
        else:
            assert board.any()
            assert not (bright.sum((2, 4)) > 8)[~board].any()


def test_a_question_has_one_answer() -> None:
    """No two scenes share a shape or a colour, so equal questions about a clip have equal answers."""
    for index in range(50):
        said: dict[str, str] = {}
        for question in questions(draw_clip("validation", index)):
            assert said.setdefault(question.text, question.answer) == question.answer
            assert question.answer in CHOICES[question.kind]


def test_no_answer_is_commoner_than_chance() -> None:
    """A blind answerer gains nothing by knowing the answers' frequencies."""
    counts = {kind: dict.fromkeys(choices, 0) for kind, choices in CHOICES.items()}
    for index in range(600):
        for question in questions(draw_clip("train", index)):
            counts[question.kind][question.answer] += 1
    for kind, by_answer in counts.items():
        share = max(by_answer.values()) / sum(by_answer.values())
        assert share < 1.35 / len(by_answer), (kind, by_answer)


def test_most_questions_come_long_after_their_evidence() -> None:
    ages = [q.age(c.length) for c in (draw_clip("test", i) for i in range(100)) for q in questions(c)]
    assert np.mean(np.array(ages) >= 16) >= 0.5


def test_lengths_and_scenes_are_as_asked() -> None:
    clip = draw_clip("train", 3, Shape(frames=24, scenes=(3, 3), number=False))
    assert clip.length == len(clip.render()) == 24
    assert sum(scene.shape is not None for scene in clip.scenes) == 3
    assert all(scene.number is None for scene in clip.scenes)


@pytest.mark.parametrize(
    "shape", [Shape(frames=10), Shape(scenes=(0, 2)), Shape(scenes=(5, 8)), Shape(scene_frames=(1, 3))]
)
def test_what_cannot_be_composed_is_refused(shape: Shape) -> None:
    with pytest.raises(ConfigError, match="expected"):
        draw_clip("train", 0, shape)


@pytest.mark.parametrize(("split", "index"), [("training", 0), ("test", -1)])
def test_unknown_clips_are_refused(split: str, index: int) -> None:
    with pytest.raises(ConfigError, match="expected a split"):
        draw_clip(split, index)


def test_a_clip_of_nothing_asks_nothing() -> None:
    assert questions(Clip((Scene(4, (1,)),))) == []
