"""What the trained video model scores on clips that no choice was made on, and what a blind answerer scores.

Rendered clips are drawn from the test split, one question of each kind a clip, so that within a kind all questions
come from different clips. Two blind answerers stand beside the model: the model itself on clips in which nothing is
seen, and a table of the most frequent answer to each question, counted on training clips.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from checkpoints.recipes.video_batches import Layout
from checkpoints.recipes.video_gallery import Asked, TrainingClip, encode
from evaluations.tasks.video import easy_vqa
from evaluations.tasks.video.questions import CHOICES, Question, questions
from evaluations.tasks.video.rendered import Clip, Scene, Split, draw_clip

LONG_AGO = 16
"""Frames after the last evidence from which on a question counts as asked long after."""

SEED = 0


@dataclass(frozen=True)
class Measured:
    """A share of right answers with its 95% Wilson interval."""

    score: float
    low: float
    high: float
    count: int
    """Independent units: questions of different clips, or clips."""


def measured(right: list[float]) -> Measured:
    """The mean of values in [0, 1] and its Wilson interval; a value between 0 and 1 varies at most as a coin does."""
    mean, count, z = float(np.mean(right)), len(right), 1.959964
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (mean * (1 - mean) / count + z * z / (4 * count * count)) ** 0.5
    return Measured(mean, max(0.0, centre - half), min(1.0, centre + half), count)


@torch.no_grad()
def answers(model: nn.Module, layout: Layout, clip: TrainingClip) -> list[str]:
    """The model's first word to each question of `clip`, asked alone, after the whole clip."""
    batch = layout.batch([clip], [clip.questions])
    logits = model.lm_head(layout.hidden(model, batch)[-1][batch.kinds >= 0])
    return layout.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())


def one_of_each_kind(clip: Clip, index: int) -> list[Question]:
    """A question of each kind there is about `clip`, drawn by `index`."""
    rng = np.random.default_rng([SEED, index])
    by_kind: dict[str, list[Question]] = defaultdict(list)
    for question in questions(clip):
        by_kind[question.kind].append(question)
    return [pool[rng.integers(len(pool))] for _, pool in sorted(by_kind.items())]


def seen(model: nn.Module, frames: np.ndarray, asked: list[Asked]) -> TrainingClip:
    """A clip of real frames with its questions."""
    features = encode(model, frames).flatten(0, 1)
    return TrainingClip(features, np.arange(len(features)), len(frames), asked)


def rendered_scores(model: nn.Module, split: Split, clips: int, *, blind: bool = False) -> dict[str, Measured]:
    """Shares of right answers on `clips` clips: by kind, by age of the evidence, and over all ("all").

    Args:
        model: the video model.
        split: "test" for numbers that are reported.
        clips: how many.
        blind: show empty frames in place of the clip.
    """
    layout, right = Layout(), defaultdict(list)
    for index in range(clips):
        clip = draw_clip(split, index)
        asked = one_of_each_kind(clip, index)
        shown = Clip((Scene(clip.length, (SEED, index)),)) if blind else clip
        given = answers(model, layout, seen(model, shown.render(), [Asked(q.kind, q.text, q.answer) for q in asked]))
        marks = [float(answer == q.answer) for answer, q in zip(given, asked, strict=True)]
        for question, mark in zip(asked, marks, strict=True):
            right[question.kind].append(mark)
        for name, old in (("long ago", True), ("recent", False)):
            part = [m for m, q in zip(marks, asked, strict=True) if (q.age(clip.length) >= LONG_AGO) == old]
            right[name] += [float(np.mean(part))] if part else []
        right["all"].append(float(np.mean(marks)))
    return {name: measured(values) for name, values in right.items()}


def long_ago_share(split: Split, clips: int) -> float:
    """The share of `rendered_scores`'s questions that come `LONG_AGO` frames or more after their last evidence."""
    drawn = [(draw_clip(split, index), index) for index in range(clips)]
    return float(np.mean([q.age(c.length) >= LONG_AGO for c, index in drawn for q in one_of_each_kind(c, index)]))


def table_scores(split: Split, clips: int, training_clips: int = 2000) -> dict[str, Measured]:
    """What the most frequent training answer to each question scores: the best a blind answerer can hope for."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(training_clips):
        for question in questions(draw_clip("train", index)):
            counts[question.text][question.answer] += 1
    right = defaultdict(list)
    for index in range(clips):
        marks = []
        for question in one_of_each_kind(draw_clip(split, index), index):
            known = counts[question.text].most_common(1)
            marks.append(float(bool(known) and known[0][0] == question.answer))
            right[question.kind].append(marks[-1])
        right["all"].append(float(np.mean(marks)))
    return {name: measured(values) for name, values in right.items()}


def chance() -> float:
    """Mean over kinds of one in so many choices."""
    return float(np.mean([1 / len(choices) for choices in CHOICES.values()]))


def vqa_scores(model: nn.Module, count: int, limit: int | None = None) -> dict[str, Measured]:
    """Share of easy-vqa's test questions answered rightly, each image among `count` in a clip, by place in the clip.

    The unit of the intervals is the image. With one image a clip the questions are the set's own, word for word; "every
    question" then is what others publish as test accuracy.
    """
    layout, right = Layout(), defaultdict(list)
    pool = easy_vqa.images("test")
    for index in range(len(pool) if limit is None else limit):
        clip = easy_vqa.vqa_clip("test", index, count)
        asked = [q for q in clip.questions() if q.image == pool[index].index]
        given = answers(model, layout, seen(model, clip.render(), [Asked("easy-vqa", q.text, q.answer) for q in asked]))
        marks = [float(answer == q.answer) for answer, q in zip(given, asked, strict=True)]
        right["all"].append(float(np.mean(marks)))
        right["every question"] += marks
        if count > 1:
            place = asked[0].evidence[0] // clip.frames_per_image
            right[easy_vqa.ORDINALS[place]].append(float(np.mean(marks)))
    return {name: measured(values) for name, values in right.items()}
