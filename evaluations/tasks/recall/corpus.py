"""Real text that lies on any machine, and the vocabulary that hides evidence in it.

The text is the Python standard library's own: the help topics of `pydoc` and the sources of its large pure-Python
modules, read at run time, so nothing has to be shipped. A document belongs to exactly one split (train, validation or
test), decided by its name. Cuts are only made where the tokenizer's pre-tokenizer cuts, so every prompt decodes to text
that encodes to the same ids.
"""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from namm.errors import CheckpointError, DataError

Split = Literal["train", "validation", "test"]

TOKENIZER_FOLDER = Path(__file__).resolve().parents[3] / "checkpoints" / "text" / "recall-llama"
"""Folder of the shipped model; its tokenizer.json defines the vocabulary of the default tasks."""

KEYS, VALUES, NOISES = 64, 64, 64
MARKERS = ("<pad>", "<begin>", "<span>", "<pass>", "<let>", "<ask>")
BYTE_PAIR_ENTRIES = 640
DOCUMENT_CHARACTERS = 60_000
MINIMUM_MODULE_BYTES = 30_000


def split_of_document(name: str) -> Split:
    """The split a document belongs to, from its name alone: 80% train, 10% validation, 10% test."""
    bucket = zlib.crc32(name.encode()) % 10
    return "test" if bucket == 9 else "validation" if bucket == 8 else "train"


def read_documents() -> Iterator[tuple[str, str]]:
    """Name and ASCII text of every document, in a fixed order: pydoc topics, then the larger top-level library modules.

    Yields:
        `(name, text)`, text of at most 60,000 characters, ending in a newline.

    Raises:
        DataError: if this Python has neither help topics nor library sources.
    """
    found = False
    topics = _help_topics()
    for name in sorted(topics):
        found = True
        yield f"topic:{name}", _plain(topics[name])
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if path.stat().st_size >= MINIMUM_MODULE_BYTES:
            found = True
            yield f"module:{path.stem}", _plain(path.read_text(encoding="utf-8", errors="ignore"))
    if not found:
        raise DataError(
            f"expected Python sources in {sysconfig.get_path('stdlib')} or pydoc topics, found none; "
            "install the full standard library of this Python"
        )


def _help_topics() -> dict[str, str]:
    """What Python's own `help` says, by topic; nothing where a distribution leaves it out."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return topics


def _plain(text: str) -> str:
    return text[:DOCUMENT_CHARACTERS].encode("ascii", "ignore").decode().replace("\r", "").rstrip() + "\n"


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE of 640 entries, trained on the training documents, plus keys, values, noise and marker tokens.

    Each line is pre-tokenized on its own (a newline ends a piece), so lines can be joined without changing their ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "merged_with_previous"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_PAIR_ENTRIES, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    texts = (text for name, text in read_documents() if split_of_document(name) == "train")
    tokenizer.train_from_iterator(texts, trainer)
    names = list(MARKERS)
    for letter, count in (("k", KEYS), ("v", VALUES), ("n", NOISES)):
        names += [f"<{letter}{index:02d}>" for index in range(count)]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


@dataclass(frozen=True)
class TokenStream:
    """All documents of one split, tokenized and joined."""

    ids: np.ndarray
    """Token ids, int64 [tokens]."""
    starts: np.ndarray
    """Whether a pre-token begins at each index, bool [tokens + 1]; cuts are allowed only there."""
    cut_before: np.ndarray
    """The last allowed cut at or before each index, int64 [tokens + 1]."""

    def cut(self, rng: np.random.Generator, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and start flags of a random stretch of at most `tokens` tokens (fewer where a word would be split)."""
        begin = int(self.cut_before[rng.integers(0, max(1, len(self.ids) - tokens))])
        end = int(self.cut_before[min(begin + tokens, len(self.ids))])
        return self.ids[begin:end], self.starts[begin:end]


class RecallVocabulary:
    """The ids of the special tokens of a recall tokenizer, and the real text encoded with it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args:
        tokenizer: as made by `train_tokenizer`.

        Raises:
            CheckpointError: if a key, value, noise or marker token is missing.
        """
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self.pad, self.begin, self.span, self.passkey, self.let, self.ask = self._ids(MARKERS)
        self.keys = self._ids([f"<k{i:02d}>" for i in range(KEYS)])
        self.values = self._ids([f"<v{i:02d}>" for i in range(VALUES)])
        self.noises = self._ids([f"<n{i:02d}>" for i in range(NOISES)])
        self._streams: dict[str, TokenStream] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> RecallVocabulary:
        """The vocabulary of the tokenizer.json in `folder`.

        Raises:
            CheckpointError: if the file is absent or no recall tokenizer.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"expected a tokenizer at {path}, found none; make it with `python checkpoints/recipes/recall_llama.py`"
            )
        return cls(Tokenizer.from_file(str(path)))

    def _ids(self, names: list[str] | tuple[str, ...]) -> np.ndarray:
        ids = [self.tokenizer.token_to_id(name) for name in names]
        if None in ids:
            raise CheckpointError(
                f"expected the token {names[ids.index(None)]!r} in the tokenizer, found {self.size} tokens without it; "
                "use the tokenizer made by checkpoints/recipes/recall_llama.py"
            )
        return np.asarray(ids, dtype=np.int64)

    def text(self, split: Split) -> TokenStream:
        """The documents of one split as one token stream (encoded once, about a second for train)."""
        if split not in self._streams:
            texts = [text for name, text in read_documents() if split_of_document(name) == split]
            self._streams[split] = self._encode(texts)
        return self._streams[split]

    def _encode(self, texts: list[str]) -> TokenStream:
        ids, starts = [], []
        for encoding in self.tokenizer.encode_batch(texts):
            words = np.asarray(encoding.word_ids, dtype=np.int64)
            ids.append(np.asarray(encoding.ids, dtype=np.int64))
            starts.append(np.concatenate([[True], words[1:] != words[:-1]]))
        flags = np.concatenate([*starts, [True]])
        cut_before = np.maximum.accumulate(np.where(flags, np.arange(len(flags)), 0))
        return TokenStream(np.concatenate(ids), flags, cut_before)


@cache
def default_vocabulary() -> RecallVocabulary:
    """The vocabulary of the shipped checkpoint, loaded once."""
    return RecallVocabulary.from_folder(TOKENIZER_FOLDER)
