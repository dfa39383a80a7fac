"""Signals: what each says of keys and values, and that everything else follows from the list in the config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from namm import NAMM, Memory, NAMMConfig
from namm.calibration import Calibration
from namm.errors import ConfigError
from namm.policies import make_policy
from namm.signals import KEY_SIGNALS, Held, key_difference, key_signals, nearest_newer, standardised_norm

LISTS = (
    (), ("mean",), ("key_difference",), ("spectrogram", "key_difference"), ("spectrogram", *KEY_SIGNALS),
    ("value_norm", "key_norm"),
)  # fmt: skip


def _held(slots: int = 40, unused: int = 3) -> Held:
    draw = torch.Generator().manual_seed(1)
    keys = torch.randn(2, 3, slots, 8, generator=draw) + 1.5
    values = torch.randn(2, 3, slots, 6, generator=draw)
    valid = torch.ones(2, 3, slots, dtype=torch.bool)
    valid[0, :, :unused] = False
    return Held(lambda: keys, lambda: values, valid)


def test_key_difference_is_the_cosine_to_the_mean_of_what_is_held() -> None:
    held = _held()
    keys = held.keys()[0, 1, 3:]
    unit = keys / keys.norm(dim=-1, keepdim=True)
    mean = unit.mean(0)
    torch.testing.assert_close(key_difference(held.keys(), held.valid)[0, 1, 3:], -(unit @ mean) / mean.norm())


def test_nearest_newer_by_its_definition() -> None:
    held = _held(slots=300)  # more than one block
    found = nearest_newer(held.keys(), held.valid)[0, 2, 3:]
    keys = held.keys()[0, 2, 3:]
    unit = torch.nn.functional.normalize(keys - keys.mean(0), dim=-1)
    for place in (0, 5, 255, 260, 295):
        assert found[place] == pytest.approx(1 - float((unit[place + 1 :] @ unit[place]).max()), abs=1e-5)
    assert found[-1] == 1.0


@pytest.mark.parametrize("name", KEY_SIGNALS)
def test_no_scale_no_basis_and_no_unused_slot(name: str) -> None:
    """Scaled and rotated keys and values say the same; what lies in unused slots says nothing."""
    held = _held()
    rotation = [
        torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(2)))[0] for width in (8, 6)
    ]
    turned = Held(lambda: held.keys() @ rotation[0] * 7.0, lambda: held.values() @ rotation[1] * 0.1, held.valid)
    [first, second] = (key_signals((name,), each)[..., 0] for each in (held, turned))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    dirty = Held(
        lambda: held.keys().masked_fill(~held.valid.unsqueeze(-1), 9.0),
        lambda: held.values().masked_fill(~held.valid.unsqueeze(-1), 9.0), held.valid,
    )  # fmt: skip
    torch.testing.assert_close(first, key_signals((name,), dirty)[..., 0])
    assert not first[0, :, :3].any()
    assert first[held.valid].std() > 0


def test_norms_are_z_scores_of_each_head() -> None:
    held = _held()
    norms = standardised_norm(held.values(), held.valid)[0, :, 3:]
    torch.testing.assert_close(norms.mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(norms.std(-1, correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_each_vector_is_gathered_once_and_only_if_asked() -> None:
    asked: list[str] = []
    held = _held()

    def gather(name: str) -> torch.Tensor:
        asked.append(name)
        return held.keys() if name == "keys" else held.values()

    counted = Held(lambda: gather("keys"), lambda: gather("values"), held.valid)
    key_signals(("key_difference", "key_norm", "nearest_newer"), counted)
    assert asked == ["keys"]


@pytest.mark.parametrize("signals", LISTS)
def test_everything_follows_from_the_list(signals: tuple[str, ...], tmp_path: Path) -> None:
    """Features, parameters, statistics, a folder and back, and updates of a memory with real scores."""
    config = NAMMConfig(signals=signals, interval=16)
    attention = {"spectrogram": 17, "mean": 1}.get(signals[0] if signals else "", 0)
    assert config.features == 8 + attention + len(config.of_keys)
    torch.manual_seed(3)
    namm = NAMM(config, torch.randn(NAMM(config).scorer.params))
    namm.save_pretrained(tmp_path)
    again = NAMM.from_pretrained(tmp_path)
    assert again.config == config
    assert again.sha256() == namm.sha256()
    policy = make_policy("namm", namm=again, interval=16, statistics="sequence", budget=8)
    assert policy.observes_attention == bool(attention)
    memory, calibrated = Memory(policy), Memory(calibration := Calibration(namm, 16, 1))
    query, key, value = torch.randn(2, 4, 33, 8), torch.randn(2, 2, 33, 8), torch.randn(2, 2, 33, 6)
    memory.attend(0, query, key, value)
    calibrated.attend(0, query, key, value)
    assert (memory.slots() <= 8 + 1).all()
    assert memory.slots().all()
    assert calibration.statistics().mean.shape == (1, attention)


def test_a_population_reads_the_same_signals() -> None:
    config = NAMMConfig(signals=("spectrogram", "key_difference"), interval=16)
    torch.manual_seed(4)
    population = torch.randn(2, NAMM(config).scorer.params)
    inputs = torch.randn(1, 4, 32, 8), torch.randn(1, 2, 32, 8), torch.randn(1, 2, 32, 6)
    options = {"namm": NAMM(config), "interval": 16, "budget": 8}
    together = Memory(make_policy("namm", **options, population=population, candidate=torch.arange(2)))
    together.attend(0, *(part.expand(2, -1, -1, -1) for part in inputs))

    def kept(memory: Memory, row: int) -> list[list[int]]:
        return [[place for place in head if place >= 0] for head in memory.kept_positions(0)[row].tolist()]

    for row in range(2):
        alone = Memory(make_policy("namm", **options | {"namm": NAMM(config, population[row])}))
        alone.attend(0, *inputs)
        assert kept(alone, 0) == kept(together, row)
    assert kept(together, 0) != kept(together, 1)


def test_wrong_lists_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'key_difference'"):
        NAMMConfig(signals=("key_diference",))
    for wrong in (("key_norm", "spectrogram"), ("spectrogram", "mean"), ("key_norm", "key_norm")):
        with pytest.raises(ConfigError, match="once each"):
            NAMMConfig(signals=wrong)
    with pytest.raises(ConfigError, match="reads nothing"):
        NAMMConfig(signals=(), recency_dim=0)


def test_only_signal_of_earlier_configs_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    """Before there could be several a config said "signal"; what it computed and its identity stay."""
    NAMM(NAMMConfig(signals=("mean",))).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["signal"] == "mean"
    assert "signals" not in written
    assert NAMM.from_pretrained(tmp_path).config.signals == ("mean",)
    (tmp_path / "config.json").write_text(json.dumps(written | {"signal": "spectrogram"}))
    with pytest.raises(Exception, match="does not fit"):  # its weights are of the other
        NAMM.from_pretrained(tmp_path)
