"""A tokenizer is there, is not there, or is damaged, and each is said as what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from modalities.pretrained import read_tokenizer
from namm.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER_FOLDER / name, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return tmp_path


def test_a_whole_one_is_read(folder: Path) -> None:
    assert read_tokenizer(str(folder))("value")["input_ids"]


def test_a_folder_without_one_has_none(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert read_tokenizer(str(folder)) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "no vocabulary", "missing", "settings", "bytes"])
def test_a_damaged_one_is_an_error_that_names_it(folder: Path, damage: str) -> None:
    path = folder / "tokenizer.json"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no vocabulary":
        told = json.loads(content)
        told["model"]["vocab"], told["model"]["merges"] = {}, []
        path.write_text(json.dumps(told), encoding="utf-8")
    elif damage == "missing":
        path.unlink()
    elif damage == "settings":
        (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    else:
        path.write_bytes(b"\xff\xfe" + content)
    with pytest.raises(CheckpointError, match=r"tokenizer.*copy it again"):
        read_tokenizer(str(folder))
