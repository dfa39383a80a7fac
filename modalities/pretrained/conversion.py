"""Turns a GGUF file into a Hugging Face folder: plain weights in safetensors, tokenizer, configuration.

A folder loads in a tenth of the time, and everything that takes a model takes a folder.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from modalities.pretrained.gguf_file import check_gguf
from modalities.pretrained.gguf_tokenizer import cut_by
from modalities.pretrained.loading import load_model
from modalities.pretrained.names import Located
from modalities.pretrained.tokenizer import load_tokenizer
from namm.errors import CheckpointError, StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def unpack_gguf(gguf: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Writes a GGUF file's model into a folder.

    Args:
        gguf: The file.
        folder: Existing and empty.
        dtype: Of the weights. What was quantised to 4 bits loses little in bfloat16; nothing in float32.

    Returns:
        Facts of the weights, as `origin.json` holds them.

    Raises:
        NammError: The file cannot be used, or there is no room.
    """
    located = Located(str(gguf.parent), gguf.name)
    facts = check_gguf(gguf)
    model, tokenizer = load_model(located, dtype), load_tokenizer(located)
    try:
        model.save_pretrained(folder, max_shard_size="1TB")
        tokenizer.save_pretrained(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageError(f"The model must be written to {folder}, found: {error.strerror}; make room.") from error
        raise
    for path in folder.iterdir():
        path.chmod(0o644)  # a cache may be shared
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"Expected the weights of {gguf.name} in one file in {folder}, found none.")
    return {
        "architecture": facts.architecture,
        "quantization": facts.quantization,
        "stored_dtype": str(dtype).removeprefix("torch."),
        "pre_tokenizer": facts.pre_tokenizer,
        "pre_tokenizer_set_by": cut_by(facts),
    }


def put_in_place(made: Path, target: Path, beside: Path) -> None:
    """Moves a finished folder to where it is looked for, over what may lie there.

    Args:
        made: The finished folder.
        target: Where it goes.
        beside: A folder on the same disk for what lay there until now.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=beside) as aside:
        if target.exists():
            os.replace(target, Path(aside) / target.name)
        os.replace(made, target)
