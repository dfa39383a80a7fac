"""Soft forgetting: a token weighs as the NAMM has been sure of it, and training by the loss that this causes helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import logsigmoid

import checkpoints
from evaluations.evolution.likelihood_fitness import asked_under
from evaluations.evolution.source import load_source
from evaluations.hindsight.recording import Seen, seen_under
from evaluations.hindsight.shown import scores_of
from evaluations.hindsight.softly import SoftConfig, SoftTraining, _biases, _weights
from evaluations.hindsight.training import fresh, shifted
from evaluations.tasks.lessons import Course, Lesson, draw_lessons
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError, DataError
from namm.features import FeatureStatistics
from namm.policies import make_policy

RECALL_LLAMA = Path(checkpoints.__file__).parent / "text" / "recall-llama"


LESSON = Lesson(tuple(range(11)), (False,) * 10 + (True,), 9, 4, "made up")
"""Ten tokens are read."""


def seen(count: int, *positions: int) -> Seen:
    places = torch.tensor(positions).view(1, 1, -1).int()
    nothing = torch.zeros(1, 1, len(positions), 0)
    return Seen(count, places, nothing, nothing)


def two_updates() -> tuple[tuple[Seen, Seen], list[torch.Tensor]]:
    """Tokens 0 to 3 and 4 to 7 in intervals of 4; token 1 is gone after the first update, and token 5 after the second;
    unused slots come first."""
    scores = [
        torch.tensor([[[2.0, -6.0, 0.0, 1.0]]], requires_grad=True),
        torch.tensor([[[9.0, -1.0, 0.0, 4.0, 2.0, -90.0, 3.0, 4.0]]], requires_grad=True),
    ]
    return (seen(4, 0, 1, 2, 3), seen(8, -1, 0, 2, 3, 4, 5, 6, 7)), scores


def test_by_the_product_a_token_weighs_what_all_its_scores_say() -> None:
    updates, scores = two_updates()
    config = SoftConfig(gate="product")
    after = _weights(scores, updates, LESSON, 2.0, "product")
    found = _biases(after, LESSON, config)
    assert found.shape == (1, 1, 3, 10)
    expected = torch.zeros(3, 10)
    expected[1, :4] = logsigmoid(torch.tensor([1.0, -3.0, 0.0, 0.5]))
    expected[2, :4] = expected[1, :4] + logsigmoid(torch.tensor([-0.5, float("inf"), 0.0, 2.0]))
    expected[2, 4:8] = logsigmoid(torch.tensor([1.0, -45.0, 1.5, 2.0])).clamp_min(-12.0)
    torch.testing.assert_close(found[0, 0].detach(), expected)
    found.sum().backward()
    assert bool((scores[0].grad > 0).all())  # the one that is gone, too


def test_by_the_least_score_a_token_weighs_what_would_have_decided() -> None:
    updates, scores = two_updates()
    after = _weights(scores, updates, LESSON, 2.0, "least")
    found = _biases(after, LESSON, SoftConfig(gate="least"))
    expected = torch.zeros(3, 10)
    expected[1, :4] = logsigmoid(torch.tensor([1.0, -3.0, 0.0, 0.5]))
    expected[2, :8] = logsigmoid(torch.tensor([-0.5, -3.0, 0.0, 0.5, 1.0, -45.0, 1.5, 2.0])).clamp_min(-12.0)
    torch.testing.assert_close(found[0, 0].detach(), expected)
    found[:, :, 2].sum().backward()
    first, second = (part.grad[0, 0] for part in scores)
    assert first[0] == 0
    assert first[3] > 0  # token 3 was closest to being forgotten at its first update, token 0 at its second
    assert second[1] > 0
    assert second[3] == 0
    assert second[0] == 0  # no token is there


def namm_of(seed: int) -> NAMM:
    constants = NAMMConfig(signals=("spectrogram", "key_difference"), interval=48, trained_statistics="sequence")
    nothing = fresh(constants, FeatureStatistics(torch.zeros(1, 17), torch.ones(1, 17)))
    first = torch.randn(nothing.flat.shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    return NAMM(constants, first, nothing.statistics)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="a part to keep"):
        SoftConfig(keep=1.0)
    with pytest.raises(ConfigError, match=r"up to 0\.25"):
        SoftConfig(last_softness=0.4)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SoftConfig(averaged=2.0)


def test_the_last_numbers_are_averaged() -> None:
    model = load_source(str(RECALL_LLAMA), torch.float32)
    lessons = draw_lessons(Course(("pairs",), (144,), (48,), 48), None, 4, 0)
    averaged, last = (SoftTraining(namm_of(0), SoftConfig(steps=4, batch=1, averaged=part)) for part in (0.5, 0.0))
    numbers = []
    for lesson in lessons:
        averaged.step([model], [[lesson]])
        last.step([model], [[lesson]])
        numbers.append(last.namm.flat)
        if averaged.number == 2:
            assert torch.equal(averaged.namm.flat, last.namm.flat)
    torch.testing.assert_close(averaged.namm.flat, (numbers[2] + numbers[3]) / 2)
    assert not torch.equal(numbers[2], numbers[3])


def test_weights_harden_in_equal_ratios() -> None:
    config = SoftConfig(steps=3, softness=0.4, last_softness=0.1)
    assert [config.softness_at(step) for step in range(3)] == pytest.approx([0.4, 0.2, 0.1])
    assert replace(config, last_softness=None).softness_at(2) == 0.4


def test_after_a_step_as_many_of_the_tokens_seen_stand_as_before() -> None:
    model, namm = load_source(str(RECALL_LLAMA), torch.float32), namm_of(0)
    [lesson] = draw_lessons(Course(("pairs",), (144,), (48,), 48), None, 1, 0)
    training = SoftTraining(namm, SoftConfig(steps=3, batch=1, rate=1.0, pull=0.0, gate="least"))
    training.step([model], [[lesson]])
    updates, _ = seen_under(model, lesson, namm, "sequence", 9, 0.0, namm.config.of_keys)

    def stand(namm: NAMM) -> int:
        return sum(int((scores_of(namm, namm.flat, each)[each.positions >= 0] >= 0).sum()) for each in updates)

    assert stand(training.namm) == pytest.approx(stand(namm), abs=2)
    assert stand(shifted(training.namm, 0.05)) < stand(namm)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Two sources, which here are one model; each has a threshold of its own."""
    models = [load_source(str(RECALL_LLAMA), torch.float32)] * 2
    lessons = [[[each]] * 2 for each in draw_lessons(Course(("pairs",), (144,), (48,), 48), None, 3, 0)]
    whole, first = (
        SoftTraining(namm_of(0), SoftConfig(steps=3, batch=1, gate="least", averaged=0.7), 2) for _ in range(2)
    )
    for some in lessons:
        assert len(whole.step(models, some).kept) == 2
    first.step(models, lessons[0])
    first.save(tmp_path / "training")
    again = SoftTraining(namm_of(0), SoftConfig(steps=3, batch=1, gate="least", averaged=0.7), 2)
    again.restore(tmp_path / "training")
    for some in lessons[1:]:
        again.step(models, some)
    assert torch.equal(again.namm.flat, whole.namm.flat)
    assert not torch.equal(whole.namm.flat, namm_of(0).flat)
    (tmp_path / "training").write_bytes((tmp_path / "training").read_bytes()[:-9])
    with pytest.raises(DataError, match="delete it to begin again"):
        again.restore(tmp_path / "training")


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_a_few_steps_on_a_real_model_make_answers_likelier_at_the_same_size() -> None:
    """Under real forgetting, on prompts that were not trained on."""
    model = load_source(str(RECALL_LLAMA), torch.float32)
    namm = namm_of(0)
    course = Course(("pairs", "passkey"), (288,), (48,), 48)
    training = SoftTraining(namm, SoftConfig(steps=12, batch=2, rate=1e-2, keep=0.4))
    drawn = draw_lessons(course, None, 24, 0)
    steps = [training.step([model], [drawn[first : first + 2]]) for first in range(0, 24, 2)]
    assert sum(step.kept[0] for step in steps[-4:]) / 4 == pytest.approx(0.4, abs=0.12)
    before, after = (sum(step.losses[0] + step.losses[1] for step in some) for some in (steps[:4], steps[-4:]))
    assert after < before
    asked = draw_lessons(course, None, 8, 0, "validation")

    def likelihood(namm: NAMM, budget: int = 90) -> float:
        with torch.inference_mode():
            policies = (
                make_policy("namm", namm=namm, interval=48, statistics="sequence", budget=budget) for _ in asked
            )
            return sum(
                float(asked_under(model, each, lesson).log_likelihood[0])
                for each, lesson in zip(policies, asked, strict=True)
            )

    assert likelihood(training.namm) > likelihood(namm) + 1.0
