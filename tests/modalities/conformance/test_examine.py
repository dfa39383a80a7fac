"""The command that examines a model: a status for each outcome, models of pictures and text, and where weights go."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from modalities.conformance.examine import Arguments, examine, load, main, subject_of
from modalities.conformance.tiny_models import tiny_model
from namm.errors import CheckpointError


def status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["conformance", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_what_could_not_be_loaded_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    tiny_model("llama").save_pretrained(damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for name in (str(tmp_path / "nothing"), str(damaged), str(weights), "tiny:lama"):
        assert status(monkeypatch, name) == 3
        told = capsys.readouterr().err
        assert f"{name}: could not be loaded" in told
        assert told.endswith("NOT EXAMINED\n")


def test_a_refused_model_has_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(monkeypatch, "tiny:bloom") == 2
    assert "REFUSED" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_model_of_pictures_and_text_is_examined(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    model = load(Arguments(str(tmp_path)))
    assert "ForConditionalGeneration" in type(model).__name__
    verdict = examine(subject_of(model), only=("pieces equal one call", "forgetting equals masking"))
    assert verdict.conforms, str(verdict)


def test_a_device_map_places_a_tiny_model_too() -> None:
    model = load(Arguments("tiny:llama", device_map="cpu", dtype="bfloat16"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    expected = tiny_model("llama").to(torch.bfloat16)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load(Arguments("tiny:llama", device_map="nowhere"))
