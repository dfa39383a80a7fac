"""Hindsight: what is recorded is what the policy sees, worth is looked up by position, and training foresees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations.hindsight.recording import KEYS, Recording, Seen, seen_under, worths
from evaluations.hindsight.shown import batch_of, caught, scored, spectrum_statistics
from evaluations.hindsight.training import TrainingConfig, disturb, fresh, shifted, train, units
from evaluations.tasks.lessons import Course, Lesson, draw_lessons
from modalities import attach
from modalities.language.token_gradients import token_gradients
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError, DataError
from namm.policies import make_policy

SIGNALS = ("spectrogram", "key_difference")
CONFIG = NAMMConfig(signals=SIGNALS, interval=16, trained_statistics="sequence")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    ids = torch.randint(1000, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    return Lesson(tuple(ids), (False,) * 90 + (True,) * 10, 90, 16, "pairs")


def _toy(seed: int) -> Recording:
    """Tokens whose worth is told by one key signal alone."""
    draw = torch.Generator().manual_seed(seed)
    positions = torch.arange(64).expand(2, 2, 64).int()
    of_keys = torch.randn(2, 2, 64, len(KEYS), generator=draw)
    spectrum = torch.rand(2, 2, 64, 17, generator=draw)
    worth = torch.zeros(2, 2, 2, 80)
    worth[:, :, 1, :64] = of_keys[..., KEYS.index("key_difference")].exp()
    return Recording(worth.bfloat16(), 64, (Seen(64, positions, spectrum.bfloat16(), of_keys.bfloat16()),), 1.0)


def test_training_finds_what_foretells_worth_on_other_prompts() -> None:
    shelf, others = [_toy(seed) for seed in range(4)], [_toy(seed) for seed in range(10, 12)]
    first = fresh(CONFIG, spectrum_statistics([shelf]))
    settings = TrainingConfig(steps=120, heads=4, rate=1e-2, thinned=(1.0, 0.5), cosine_unit=4.0)
    trained = train(first, [shelf], settings, seed=0)
    assert torch.equal(trained.flat, train(first, [shelf], settings, seed=0).flat)
    namm = NAMM(CONFIG, trained.flat, first.statistics)
    best = sum(
        float(worth.topk(16 * 4).values.sum() / worth.sum()) for each in others for _, worth in scored(namm, each)
    )
    assert caught(namm, others, 0.25) > 0.9 * best / 2 > 0.4
    blind = NAMMConfig(signals=("spectrogram",), interval=16)
    nothing = train(fresh(blind, first.statistics), [shelf], settings, seed=0)
    assert caught(NAMM(blind, nothing.flat, first.statistics), others, 0.25) < 0.4  # chance is 0.25
    moved = shifted(namm, 0.5)
    before, after = scored(namm, others[0])[0][0], scored(moved, others[0])[0][0]
    torch.testing.assert_close(after, before - 0.5)


def test_training_begins_as_keydiff_and_is_held_there_as_asked() -> None:
    shelf = [_toy(0)]
    first = fresh(CONFIG, spectrum_statistics([shelf]))
    told = torch.cat([part.of_keys[..., KEYS.index("key_difference")].flatten() for part in shelf[0].updates]).float()

    def alike(settings: TrainingConfig, seed: int = 0) -> float:
        namm = NAMM(CONFIG, train(first, [shelf], settings, seed).flat, first.statistics)
        [(scores, _)] = scored(namm, shelf[0])
        return float(torch.corrcoef(torch.stack([scores, told]))[0, 1])

    begun = TrainingConfig(steps=1, heads=4, rate=1e-9)
    assert min(alike(begun, seed) for seed in range(4)) > 0.8
    assert min(alike(replace(begun, key_first=0.0), seed) for seed in range(4)) < 0.0
    free, start = replace(begun, steps=40, rate=1e-2, hold=0.0), train(first, [shelf], begun, 0).flat
    moved = [float((train(first, [shelf], each, 0).flat - start).norm()) for each in (free, replace(free, hold=30.0))]
    assert moved[1] < 0.5 * moved[0]
    plain = replace(free, gain=0.0, unseen=0.0)
    for disturbed in (replace(plain, gain=0.5), replace(plain, unseen=0.3)):  # training is shown what is disturbed
        assert not torch.equal(train(first, [shelf], disturbed, 0).flat, train(first, [shelf], plain, 0).flat)


def test_orders_share_their_first_numbers_and_are_averaged() -> None:
    shelf = [_toy(seed) for seed in range(3)]
    first = fresh(CONFIG, spectrum_statistics([shelf]))

    def numbers(orders: int, steps: int = 20, rate: float = 1e-2) -> torch.Tensor:
        settings = TrainingConfig(steps=steps, heads=4, rate=rate, hold=0.0, orders=orders)
        return train(first, [shelf], settings, 0).flat

    start, one, two = numbers(1, 1, 1e-9), numbers(1), numbers(2)
    assert torch.equal(two, numbers(2))
    torch.testing.assert_close(numbers(3, 1, 1e-9), start, atol=1e-5, rtol=0)
    other = 2 * two - one  # what the second order came to
    moved, also = one - start, other - start
    assert float(torch.cosine_similarity(moved, also, dim=0)) < 0.99, "it has an order of its own"
    assert 0.5 < float(also.norm() / moved.norm()) < 2
    with pytest.raises(ConfigError, match="orders"):
        TrainingConfig(orders=0)


def test_what_is_disturbed_are_spectra_and_never_all_that_there_is() -> None:
    features = torch.ones(200, 1, 5, CONFIG.features)
    spectra = slice(CONFIG.recency_dim, CONFIG.recency_dim + CONFIG.bins)
    disturb(features, CONFIG, TrainingConfig(unseen=0.3, gain=0.5), torch.Generator().manual_seed(0))
    assert bool((features[..., : spectra.start] == 1).all() and (features[..., spectra.stop :] == 1).all())
    hidden = (features[..., spectra] == 0).flatten(1).all(1)
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.1)
    factors = features[~hidden][..., spectra]
    assert torch.equal(factors, factors[:, :, :1].expand_as(factors)), "a head's tokens are stretched alike"
    assert float(factors.log().std()) == pytest.approx(0.5, abs=0.05)
    alone = NAMMConfig(signals=("spectrogram",), interval=16)
    features = torch.ones(200, 1, 5, alone.features)
    disturb(features, alone, TrainingConfig(unseen=0.3, gain=0.0), torch.Generator().manual_seed(0))
    assert bool((features == 1).all())


@pytest.mark.parametrize("wrong", [{"unseen": 1.0}, {"gain": -0.1}, {"hold": -1.0}, {"key_first": -1.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="or more"):
        TrainingConfig(**wrong)
    with pytest.raises(ConfigError, match="at most 1 / rate"):
        TrainingConfig(rate=0.1, hold=11.0)


def test_a_steps_unit_is_as_if_the_signal_were_larger() -> None:
    """Numbers of a NAMM that sees a signal 8 times as large, times their units, score the same on the signal."""
    for scorer in ("bam", "mlp"):
        namm = NAMM(replace(CONFIG, scorer=scorer))
        unit = units(namm, 8.0)
        features = torch.randn(1, 2, 9, CONFIG.features, generator=torch.Generator().manual_seed(3))
        larger = features.clone()
        larger[..., -1] *= 8.0
        flat = torch.randn(namm.scorer.params, generator=torch.Generator().manual_seed(4))
        rest = torch.ones(1, 2, 9, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
        expected = namm.scorer(flat[None], larger, *rest)
        torch.testing.assert_close(namm.scorer((flat * unit)[None], features, *rest), expected, rtol=1e-4, atol=1e-4)


def test_features_of_a_recording_are_those_of_the_policy(model: LlamaForCausalLM, lesson: Lesson) -> None:
    """Thresholds carry over from training to a memory because both see the same numbers."""
    torch.manual_seed(2)
    namm = NAMM(CONFIG, torch.randn(NAMM(CONFIG).scorer.params) * 0.2)
    updates, kept = seen_under(model, lesson, namm, "sequence", 3, 0.0)
    assert [update.seen for update in updates] == [32, 64, 96]
    assert 0 < kept < 1
    assert int((updates[-1].positions >= 0).sum()) < 2 * 2 * 96
    recording = Recording(torch.zeros(2, 2, 7, 99), 16, updates, kept)
    policy = make_policy("namm", namm=namm, interval=16, statistics="sequence")
    with attach(model.base_model, policy) as memory, torch.inference_mode():
        model.base_model(input_ids=torch.tensor(lesson.ids)[None, :96])
        held = [memory.kept_positions(layer)[0] for layer in range(2)]
    last = updates[-1]
    batch = batch_of(namm, recording, last, torch.arange(4))
    scores = namm.scorer(namm.flat[None], batch.features, batch.valid, torch.zeros(4, dtype=torch.long))[:, 0]
    for number in range(4):
        layer, head = divmod(number, 2)
        mine = last.positions[layer, head]
        clear = scores[number].abs() > 0.02  # recordings are rounded to bf16
        expected = {int(p) for p, s, c in zip(mine, scores[number], clear, strict=True) if p >= 0 and s >= 0 and c}
        unsure = {int(p) for p, c in zip(mine, clear, strict=True) if not c} | {95}
        assert {int(p) for p in held[layer][head] if p >= 0} - unsure == expected - unsure


def test_worth_sums_over_later_chunks_by_position(model: LlamaForCausalLM, lesson: Lesson, tmp_path: Path) -> None:
    found, _ = token_gradients(model, torch.tensor(lesson.ids), torch.tensor(lesson.wanted), 16)
    worth = worths(model, lesson, 16)
    positions = torch.tensor([-1, 3, 40]).expand(2, 2, 3).int()
    seen = Seen(48, positions, torch.zeros(2, 2, 3, 17), torch.zeros(2, 2, 3, len(KEYS)))
    recording = Recording(worth, 16, (seen,), 0.5)
    label = recording.label(seen)
    assert not label[..., 0].any()
    torch.testing.assert_close(label[..., 2], found.abs()[:, :, 3:, 40].sum(2), rtol=1e-2, atol=1e-6)
    assert label[..., 1:].all()
    recording.save(tmp_path / "one")
    again = Recording.load(tmp_path / "one")
    assert torch.equal(again.label(again.updates[0]), label)
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-9])
    with pytest.raises(DataError, match="delete it"):
        Recording.load(tmp_path / "one")


def test_lessons_ask_for_answers_and_splits_differ() -> None:
    course = Course(("pairs", "passkey"), (96,), (48,), 48)
    drawn = draw_lessons(course, None, 4, 0)
    assert [lesson.task for lesson in drawn] == ["pairs", "passkey"] * 2
    assert drawn == draw_lessons(course, None, 4, 0)
    assert draw_lessons(course, None, 1, 0, first=1)[0].task == "passkey"
    others = [draw_lessons(course, None, 4, 0, split) for split in ("validation", "test")]
    assert not {lesson.ids for lesson in drawn} & {lesson.ids for other in others for lesson in other}
    for lesson in drawn:
        context, question, target = lesson.asked()
        assert context.shape[1] == lesson.context == 96
        assert question.shape == target.shape
        assert [int(token) for token in target[0] if token >= 0] == [
            token for token, wanted in zip(lesson.ids, lesson.wanted, strict=True) if wanted
        ]
    with pytest.raises(ConfigError, match="tokenizer"):
        draw_lessons(Course(("documents",), (96,), (48,), 48), None, 1, 0)
    with pytest.raises(ConfigError, match="multiple of the chunk"):
        Course(("pairs",), (96,), (40,), 48)
