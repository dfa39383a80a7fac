"""A NAMM on disk: strict, whole or not at all, and never executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from namm import NAMM, NAMMConfig
from namm.errors import CheckpointError, ConfigError
from namm.features import FeatureStatistics, RunningStatistics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    statistics = FeatureStatistics(torch.rand(1, 17), torch.rand(1, 17) + 0.1)
    NAMM(NAMMConfig(interval=64), torch.randn(4172), statistics).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("scorer", ["bam", "mlp"])
def test_save_and_load_keep_every_number(tmp_path: Path, scorer: str) -> None:
    config = NAMMConfig(scorer=scorer, hidden=16, trained_statistics="sequence")
    namm = NAMM(config)
    namm = NAMM(config, torch.randn_like(namm.flat))
    namm.save_pretrained(tmp_path)
    again = NAMM.from_pretrained(tmp_path)
    assert again.config == config
    assert torch.equal(again.flat, namm.flat)
    assert again.sha256() == namm.sha256()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_what_was_saved_before_a_key_existed_keeps_its_identity(folder: Path, tmp_path: Path) -> None:
    """`signals` is written only where it is not the default, and read as the default where it is absent."""
    assert not {"signal", "signals"} & set(json.loads((folder / "config.json").read_text()))
    assert NAMM.from_pretrained(folder).config.signals == ("spectrogram",)
    for signal, recency_dim in (("mean", 8), ("mean", 0), ("spectrogram", 0)):
        config = NAMMConfig(signals=(signal,), recency_dim=recency_dim)
        NAMM(config).save_pretrained(tmp_path / "other")
        assert NAMM.from_pretrained(tmp_path / "other").config == config
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        NAMMConfig(signals=("man",))
    with pytest.raises(ConfigError, match="recency_dim"):
        NAMMConfig(recency_dim=-2)


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        NAMM.from_pretrained(folder)


def test_nan_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["flat"][7] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        NAMM.from_pretrained(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_are_refused(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["statistics_mean"]
    elif change == "extra":
        tensors["surprise"] = torch.zeros(1)
    else:
        tensors["flat"] = torch.zeros(4000)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        NAMM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"surprise": 1}, "unknown keys"),
        ({"interval": 40}, "multiple of the hop"),
        ({"scorer": "bma"}, "Did you mean"),
        ({"window": "32"}, r"whole number of 1 or more in window of .*config\.json, found '32' \(text\)"),
        ({"window": 32.0, "hop": 16.0}, r"whole number of 1 or more in hop of .* found 16\.0"),
        ({"window": 0, "hop": 0}, "found 0"),
        ({"hidden": -3}, "in hidden of .* found -3"),
        ({"recency_max_frequency": 0}, "above 0 in recency_max_frequency"),
        ({"recency_max_frequency": float("nan")}, "above 0 in recency_max_frequency of .* found nan"),
        ({"decay": "0.99"}, "finite number in decay"),
        ({"decay": None}, "finite number in decay of .* found null"),
        ({"max_age": 1e5}, "whole number of 0 or more in max_age"),
        ({"interval": True}, "whole number in interval"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder: Path, change: dict[str, object], word: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=word):
        NAMM.from_pretrained(folder)


@pytest.mark.parametrize("deviation", [0.0, -1.0])
def test_deviations_that_nothing_can_be_divided_by_are_refused(folder: Path, deviation: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["statistics_deviation"][0, 3] = deviation
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected deviations above 0"):
        NAMM.from_pretrained(folder)


def test_statistics_of_different_layers_and_of_whole_numbers_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "statistics_mean": torch.zeros(2, 17)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="a mean and a deviation for each layer"):
        NAMM.from_pretrained(folder)
    save_file({**tensors, "flat": torch.zeros(4172, dtype=torch.int64)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected floats in flat"):
        NAMM.from_pretrained(folder)


def test_statistics_that_were_measured_can_be_loaded_again(tmp_path: Path) -> None:
    """A bin that never varied had deviation 0, which a checkpoint may not have."""
    running = RunningStatistics(1, 17)
    running.add(0, torch.zeros(5, 17))
    NAMM(statistics=running.pooled()).save_pretrained(tmp_path / "namm")
    assert NAMM.from_pretrained(tmp_path / "namm").statistics.deviation.min() > 0


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        NAMM.from_pretrained(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot save"):
        NAMM().save_pretrained(tmp_path / "file")


def test_vectors_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="4172"):
        NAMM(flat=torch.zeros(2026))


def test_ages_beyond_the_embedding_count_as_its_last_and_that_is_said_once() -> None:
    namm = NAMM(NAMMConfig(max_age=100))

    def features_at(*ages: int) -> list[torch.Tensor]:
        rest = (torch.zeros(17), torch.ones(17))
        return [namm.token_features(torch.zeros(1, 1, 1, 17), torch.full((1, 1, 1), age), *rest) for age in ages]

    with pytest.warns(UserWarning, match="up to 100 tokens apart, and a token held is 101 old") as said:
        features = features_at(100, 101, 5000)
    assert len(said) == 1
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
