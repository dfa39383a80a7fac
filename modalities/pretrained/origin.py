"""Where weights come from, as facts: beside a model that a recipe wrote, and in every row made with any model."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalities.pretrained.gguf_file import check_gguf
from namm.errors import CheckpointError
from namm.files import file_sha256

if TYPE_CHECKING:
    from modalities.pretrained.names import Located

ORIGIN = "origin.json"
"""Beside the weights: package, file, quantisation, license, digests."""
FILES = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "chat_template*")
"""What decides what a model says, in its folder."""


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What the recipe wrote beside its weights; None where no recipe made this folder.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / ORIGIN
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text("utf-8"))
        _ = dict(told["quantization"]), str(told["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Expected the facts of a recipe in {path}, found a damaged file ({error!r}); delete {folder} and make it "
            "again."
        ) from error
    return told


def check_folder(folder: Path, name: str) -> None:
    """Makes sure that a recipe's folder is as the recipe left it.

    Raises:
        CheckpointError: Something is missing or changed.
    """
    told = read_origin(folder)
    weights = folder / "model.safetensors"
    again = f"delete it and run `python -m checkpoints.recipes.pretrained {name}` again."
    if told is None or not weights.is_file() or not (folder / "config.json").is_file():
        raise CheckpointError(f"Expected {name}'s weights, config.json and {ORIGIN} in {folder}, found less; {again}")
    if (found := _digest_of(weights)) != told["weights_sha256"]:
        raise CheckpointError(
            f"Expected weights of SHA-256 {told['weights_sha256'][:12]} in {weights}, found {found[:12]}; {again}"
        )


def weight_facts(located: Located, commit: str | None = None) -> dict[str, Any]:
    """What tells weights from others, for the key of a row.

    Args:
        located: The model.
        commit: On the Hub, where it was loaded from there.

    Returns:
        Digests of its files, or id and commit on the Hub; for weights that were quantised once, from what.
    """
    folder = located.folder
    if folder is None:
        return {"model_id": located.source, "model_commit": commit}
    if located.gguf is not None:
        facts = check_gguf(folder / located.gguf)
        origin = {"format": "GGUF", "quantization": facts.quantization, "pre_tokenizer": facts.pre_tokenizer}
        return {"model_sha256": _digest_of(folder / located.gguf), "weights_from": origin}
    told: dict[str, Any] = {"model_sha256": folder_sha256(folder)}
    if (origin := read_origin(folder)) is not None:
        kept = ("package", "version", "gguf_sha256", "quantization", "weights_sha256", "stored_dtype")
        told["weights_from"] = {"format": "GGUF", **{name: origin[name] for name in kept if name in origin}}
    return told


def folder_sha256(folder: Path) -> str:
    """Digest of the files that decide what a model says."""
    files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {_digest_of(path)}\n".encode())
    return digest.hexdigest()


def _digest_of(path: Path) -> str:
    status = path.stat()
    return _digest_once(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _digest_once(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)
