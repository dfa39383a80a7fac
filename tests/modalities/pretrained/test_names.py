"""What a model's name stands for: here, in the Hub's cache, or nowhere yet."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from modalities.pretrained import load_model, locate, names
from modalities.pretrained.published import CACHE_VARIABLE, PUBLISHED, cache_folder, folder_of
from namm.errors import CheckpointError

MODEL = PUBLISHED["smollm2"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub, and caches of its own."""
    names._on_the_hub.cache_clear()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_published_model_that_is_not_here_names_the_one_command_that_fetches_it() -> None:
    with pytest.raises(CheckpointError, match=r"python -m checkpoints\.recipes\.pretrained smollm2.*Apache-2\.0"):
        load_model("smollm2")


def test_a_hub_out_of_reach_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, on a port where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(CheckpointError, match="cannot be reached"):
        locate("smollm2")


def test_where_the_hub_has_been_the_makers_own_weights_are_taken(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / ("models--" + MODEL.hub.replace("/", "--"))
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text("0" * 40)
    (snapshot / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (snapshot / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(b"")
    assert locate("smollm2").source == MODEL.hub


def test_a_folder_that_exists_is_taken_before_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("smollm2").source == "smollm2"


def test_a_folder_that_its_recipe_did_not_finish_is_refused() -> None:
    folder_of(MODEL).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"found less; delete it"):
        locate("smollm2")


def test_a_name_that_means_nothing_is_answered_with_what_there_is() -> None:
    with pytest.raises(CheckpointError, match=r"FILE\.gguf.*Did you mean 'smollm2'"):
        load_model("smolm2")


def test_the_cache_follows_its_variable_then_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "namm-suite"
