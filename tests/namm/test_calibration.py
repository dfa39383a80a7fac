"""Feature statistics: whose they are, how they are pooled, and that they change what a NAMM does."""

from __future__ import annotations

import pytest
import torch

from namm import NAMM, Memory
from namm.calibration import Calibration, with_statistics
from namm.errors import ConfigError, DataError, UnknownNameError
from namm.features import FeatureStatistics, RunningStatistics
from namm.policies import make_policy


def test_running_statistics_equal_the_pooled_ones_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(90, 17, generator=generator) * (layer + 1) for layer in range(3)]
    running = RunningStatistics(3, 17)
    for layer, rows in enumerate(layers):
        for part in rows.split([1, 0, 29, 60]):
            running.add(layer, part)
    own = running.per_layer()
    for layer, rows in enumerate(layers):
        torch.testing.assert_close(own.of_layer(layer)[0], rows.mean(0))
        torch.testing.assert_close(own.of_layer(layer)[1], rows.std(0, correction=0))
    pooled = running.pooled()
    torch.testing.assert_close(pooled.mean[0], torch.cat(layers).mean(0))
    torch.testing.assert_close(pooled.deviation[0], torch.cat(layers).std(0, correction=0))
    assert torch.equal(pooled.of_layer(2)[0], pooled.of_layer(0)[0])


def sharp_qkv(scale: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 2, 96, 8, generator=generator) for _ in range(3))
    return query * scale, key, value


def test_a_calibration_pass_keeps_everything_and_makes_z_scores_standard() -> None:
    """Under a target's own statistics, the spectra of the same inputs have mean 0 and deviation 1 in each bin."""
    namm = NAMM()
    calibration = Calibration(namm, interval=32, layers=2)
    memory = Memory(calibration)
    for layer, scale in enumerate((0.5, 4.0)):
        memory.attend(layer, *sharp_qkv(scale))
    assert int(memory.slots().min()) == 96
    statistics = calibration.statistics()
    assert statistics.mean.shape == (2, 17)
    assert not torch.allclose(statistics.mean[0], statistics.mean[1], rtol=0.2)
    again = Calibration(with_statistics(namm, calibration.statistics(pooled=True)), interval=32, layers=2)
    fresh = Memory(again)
    spectra = []
    for layer, scale in enumerate((0.5, 4.0)):
        fresh.attend(layer, *sharp_qkv(scale))
        spectra.append(fresh.layers[layer].cache.state["spectrum"])
    assert again.statistics().mean.allclose(statistics.mean)


def test_statistics_decide_what_is_kept() -> None:
    namm = NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(2)) * 0.3)
    wrong = FeatureStatistics(torch.full((1, 17), 5.0), torch.full((1, 17), 0.01))
    kept = {}
    for mode, options in {
        "source": {},
        "target": {"target_statistics": wrong},
        "sequence": {},
    }.items():
        memory = Memory(make_policy("namm", namm=namm, statistics=mode, interval=32, **options))
        memory.attend(0, *sharp_qkv(3.0))
        kept[mode] = memory.kept_positions(0).tolist()
        assert memory.policy.describe()["statistics"] == mode
    assert len({str(positions) for positions in kept.values()}) == 3


def test_wrong_uses_are_refused() -> None:
    with pytest.raises(DataError, match="no update"):
        Calibration(NAMM(), interval=32, layers=1).statistics()
    with pytest.raises(ConfigError, match="multiple of the hop"):
        Calibration(NAMM(), interval=40, layers=1)
    with pytest.raises(ConfigError, match="calibrate"):
        make_policy("namm", namm=NAMM(), statistics="target")
    with pytest.raises(UnknownNameError, match="Did you mean 'source'"):
        make_policy("namm", namm=NAMM(), statistics="sorce")
