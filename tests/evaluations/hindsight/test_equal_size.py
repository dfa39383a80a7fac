"""Candidates of one size: a threshold and a unit of scores change nothing, and about the wanted part is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.recipes.sized import size_found
from evaluations.evolution.likelihood_fitness import LikelihoodFitness, LikelihoodSource
from evaluations.evolution.source import load_source
from evaluations.hindsight.equal_size import UPDATES, EqualSize
from evaluations.hindsight.recording import seen_under
from evaluations.hindsight.shown import scores_of
from evaluations.tasks.lessons import Course, draw_lessons
from namm import NAMM, NAMMConfig


@pytest.fixture(scope="module")
def source() -> LikelihoodSource:
    model = load_source(str(Path(checkpoints.__file__).parent / "text" / "recall-llama"), torch.float32)
    return LikelihoodSource(model, None, Course(("pairs",), (288,), (48,), 48), 2, 3)


@pytest.mark.parametrize("signals", [("key_difference",), ("spectrogram", "value_norm")])
def test_candidates_of_one_size_differ_in_what_they_keep_alone(
    source: LikelihoodSource, signals: tuple[str, ...]
) -> None:
    """A threshold changes nothing then, nor does a unit of scores; other numbers do, and keep about as much."""
    draw = torch.Generator().manual_seed(5)
    start = NAMM(NAMMConfig(signals=signals, interval=48, trained_statistics="sequence"))
    start = NAMM(start.config, 0.3 * torch.randn(start.scorer.params, generator=draw), start.statistics)
    candidates = start.flat.repeat(4, 1)
    parts = start.scorer.unpack(candidates)
    parts["score_bias"][1] += 2.0
    parts["score_bias"][2] *= 3.0
    parts["score_weight"][2] *= 3.0
    candidates[3] += 0.05 * torch.randn(len(start.flat), generator=draw)
    lessons = draw_lessons(source.course, None, 3, 600_000)
    threshold = size_found(start, source.model, lessons, 0.3).threshold
    size = EqualSize(source.model, lessons, start, threshold)
    free, sized = (
        LikelihoodFitness([source], start, 0.5, sizes=each)(candidates, 1, 7) for each in (None, [size.sized])
    )
    assert free.candidates["kept_fraction"][1] > free.candidates["kept_fraction"][0] + 0.1
    for same in (1, 2):
        for name in ("kept_fraction", "likelihood_ratio"):
            torch.testing.assert_close(sized.candidates[name][same], sized.candidates[name][0], rtol=1e-3, atol=1e-3)
    kept = sized.candidates["kept_fraction"]
    assert sized.fitness[3] != sized.fitness[0]
    assert float(kept[0]) == pytest.approx(0.3, abs=0.06)
    if signals == ("key_difference",):  # what a random judge of attention keeps turns on little
        assert float(kept[3]) == pytest.approx(0.3, abs=0.1)


def test_heads_scored_together_score_as_alone(source: LikelihoodSource) -> None:
    start = NAMM(NAMMConfig(signals=("spectrogram", "key_difference"), interval=48, trained_statistics="sequence"))
    numbers = 0.3 * torch.randn(start.scorer.params, generator=torch.Generator().manual_seed(2))
    start = NAMM(start.config, numbers, start.statistics)
    lessons = draw_lessons(source.course, None, 2, 600_000)
    threshold = size_found(start, source.model, lessons, 0.3).threshold
    size = EqualSize(source.model, lessons, start, threshold)
    names = start.config.of_keys
    seen = [seen_under(source.model, lesson, start, "sequence", UPDATES, threshold, names)[0] for lesson in lessons]
    alone = torch.cat([
        scores_of(start, numbers, each)[each.positions >= 0] for updates in seen for each in updates
    ])  # fmt: skip
    assert len({int(held) for each in seen[0] for held in (each.positions >= 0).sum(-1).flatten()}) > 2
    torch.testing.assert_close(size._scores(numbers).sort().values, alone.sort().values, rtol=1e-4, atol=1e-5)
