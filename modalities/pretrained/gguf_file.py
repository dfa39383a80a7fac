"""Looks at a GGUF file before transformers does, so that a wrong one is refused with a reason.

What transformers would read without a word and wrongly is refused as well: a part of a split model, positions that are
stretched by a tensor or by metadata that it ignores.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from namm.errors import CheckpointError, MissingExtraError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
POSITION_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Stretched rotary positions, which transformers does not take from a GGUF file."""


@dataclass(frozen=True)
class GgufFacts:
    """What a file says of itself."""

    architecture: str
    quantization: dict[str, int]
    """Tensors by type."""
    main_type: str
    """The type that most numbers have."""
    tokenizer: str
    """llama.cpp's name of the tokenizer's kind (`gpt2` is byte-level BPE, `llama` SentencePiece); empty without one."""
    pre_tokenizer: str
    """llama.cpp's name of how text is cut before merges; empty where it is not said."""


def check_gguf(path: Path) -> GgufFacts:
    """What a file says of itself, after making sure that it can be used.

    Raises:
        CheckpointError: It is missing, damaged, cut off, or holds something that would be read wrongly.
        MissingExtraError: The package that reads it is not installed.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"Expected a GGUF file at {path}, found none ({error.strerror}).") from error
    return _facts(path, status.st_size, status.st_mtime_ns)


@cache
def _facts(path: Path, size: int, _: int) -> GgufFacts:
    _check_beginning(path)
    reader = _open(path, size)
    told = {name: _value(reader, name) for name in ("general.architecture", "general.type", "split.count")}
    architecture = str(told["general.architecture"] or "")
    if not architecture:
        raise CheckpointError(f"{path} does not say its general.architecture; it is no language model.")
    if told["general.type"] not in (None, "model"):
        raise CheckpointError(
            f"Expected a whole model in {path}, found general.type {told['general.type']!r}; pass the model's file."
        )
    if (told["split.count"] or 1) > 1:
        raise CheckpointError(
            f"{path} is one of {told['split.count']} parts; join them with llama.cpp's `llama-gguf-split --merge` and "
            "pass the whole file."
        )
    _check_positions(path, reader, architecture)
    kinds, numbers = Counter(), Counter()
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] += 1
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    main = max(numbers, key=lambda name: (numbers[name], name))
    kind, pre = (str(_value(reader, f"tokenizer.ggml.{name}") or "") for name in ("model", "pre"))
    return GgufFacts(architecture, dict(sorted(kinds.items())), main, kind, pre)


def require_gguf(what: str) -> None:
    """Makes sure that GGUF files can be read.

    Raises:
        MissingExtraError: The package for that is not installed.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"{what} needs the package gguf; install it: pip install 'namm-suite[gguf]'") from error


def _check_beginning(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(24)
    if head[:4] != MAGIC:
        raise CheckpointError(f"Expected a GGUF file at {path}, found one that begins with {head[:4]!r}.")
    if len(head) < 24:
        raise CheckpointError(f"{path} is cut off in its first 24 bytes; fetch it again.")
    version = struct.unpack_from("<I", head, 4)[0]
    if version not in VERSIONS:
        big = struct.unpack_from(">I", head, 4)[0] in VERSIONS
        found = "a big-endian one" if big else f"version {version}"
        raise CheckpointError(f"Expected a little-endian GGUF file of version 2 or 3 at {path}, found {found}.")


def _open(path: Path, size: int) -> Any:
    require_gguf(str(path))
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except Exception as error:  # a damaged header breaks the reader in any way there is
        raise CheckpointError(
            f"{path} ({size} bytes) is damaged or cut off: its header cannot be read ({type(error).__name__}: "
            f"{error}); fetch it again."
        ) from error
    if not reader.tensors:
        raise CheckpointError(f"{path} holds no weights; pass the file of a whole model.")
    end = max(int(tensor.data_offset + tensor.n_bytes) for tensor in reader.tensors)
    if end > size:
        raise CheckpointError(f"{path} is cut off: its weights end at byte {end}, the file at {size}; fetch it again.")
    return reader


def _check_positions(path: Path, reader: Any, architecture: str) -> None:
    stretched = [tensor.name for tensor in reader.tensors if tensor.name in POSITION_TENSORS]
    scaling = _value(reader, f"{architecture}.rope.scaling.type")
    if scaling not in (None, "none"):
        stretched.append(f"{architecture}.rope.scaling.type = {scaling}")
    if stretched:
        raise CheckpointError(
            f"{path} stretches its rotary positions ({', '.join(stretched)}), which transformers does not take from a "
            "GGUF file: the model would answer wrongly without a word; pass the model's Hugging Face folder."
        )


def _value(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        return None
    value = field.contents()
    return value.item() if isinstance(value, np.generic) else value
