"""easy-vqa as frames and as clips: its own split and questions, and evidence where the image is."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.tasks.video.easy_vqa import ORDINALS, images, vqa_clip
from namm.errors import ConfigError

easy_vqa = pytest.importorskip("easy_vqa")


def test_the_set_is_whole_and_its_own_split() -> None:
    """The figures its makers give: 4,000 images with 38,575 questions, 1,000 with 9,673."""
    train, test = images("train"), images("test")
    assert (len(train), sum(len(image.questions) for image in train)) == (4000, 38575)
    assert (len(test), sum(len(image.questions) for image in test)) == (1000, 9673)
    assert {answer for image in test for _, answer in image.questions} == set(easy_vqa.get_answers())


def test_what_questions_tell_of_an_image_is_seen_in_it() -> None:
    """Colours read off the questions are those of the pixels, on images that tell both."""
    shades = {"red": (255, 0, 0), "blue": (0, 0, 255), "black": (0, 0, 0), "yellow": (255, 255, 0)}
    known = [image for image in images("train")[:400] if image.colour in shades]
    assert len(known) > 50
    for image in known:
        colours, counts = np.unique(image.pixels.reshape(-1, 3), axis=0, return_counts=True)
        order = np.argsort(-counts)
        assert shades[image.colour] in {tuple(colours[i].tolist()) for i in order[:3]}, image.index


def test_one_image_is_the_set_itself() -> None:
    clip = vqa_clip("test", 7, 1)
    assert clip.render().shape == (1, 64, 64, 3)
    assert [(q.text, q.answer) for q in clip.questions()] == list(images("test")[7].questions)


@pytest.mark.parametrize("index", [0, 3, 999])
def test_evidence_is_where_the_image_is(index: int) -> None:
    clip = vqa_clip("test", index, 8)
    frames = clip.render()
    assert len(frames) == clip.length == 32
    assert len({image.index for image in clip.images}) == 8
    assert index in {image.index for image in clip.images}
    for question in clip.questions():
        shown = {frames[i].tobytes() for i in question.evidence}
        assert shown == {images("test")[question.image].pixels.tobytes()}
        place = ORDINALS[question.evidence[0] // 4]
        assert question.text.startswith(f"in the {place} image: ")


def test_clips_never_mix_the_parts() -> None:
    train = {image.pixels.tobytes() for image in images("train")}
    mixed = [image.pixels.tobytes() in train for image in vqa_clip("test", 5, 8).images]
    assert not any(mixed)


@pytest.mark.parametrize(("index", "count"), [(0, 9), (0, 0), (1000, 1), (-1, 1)])
def test_clips_that_do_not_exist_are_refused(index: int, count: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 8 images"):
        vqa_clip("test", index, count)
