"""A language model's tokenizer: there, not there, or damaged, which are three things.

transformers makes a tokenizer of what it finds: without its vocabulary it may be one that knows no word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modalities.pretrained.gguf_file import check_gguf
from modalities.pretrained.gguf_tokenizer import mend_tokenizer
from modalities.pretrained.names import Located, locate
from namm.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = (
    "tokenizer*", "vocab.*", "merges.txt", "spiece.model", "sentencepiece*.model", "special_tokens_map.json",
    "added_tokens.json", "*.tiktoken", "tekken.json",
)  # fmt: skip
"""Of a tokenizer, in a model's folder."""
SAMPLE = "The 3 boats lie in the harbour."
"""What every tokenizer can read."""


def load_tokenizer(name: str | Located) -> PreTrainedTokenizerBase:
    """A model's tokenizer; a GGUF file's cuts text as the file says.

    Raises:
        NammError: There is none, or it cannot be used.
    """
    located = name if isinstance(name, Located) else locate(name)
    tokenizer = read_tokenizer(located)
    if tokenizer is None:
        raise CheckpointError(f"Expected a tokenizer with {located.name}, found none; copy its files into the folder.")
    return tokenizer


def read_tokenizer(name: str | Located) -> PreTrainedTokenizerBase | None:
    """A model's tokenizer; None where its folder holds none.

    Args:
        name: A folder, a Hub id, a GGUF file or a published model's name, or where that is.

    Raises:
        CheckpointError: There is one, and it cannot be read, or reads nothing.
        NammError: There is no such model.
    """
    from transformers import AutoTokenizer

    located = name if isinstance(name, Located) else locate(name)
    folder = None if located.gguf else located.folder
    found = None if folder is None else sorted({path.name for pattern in FILES for path in folder.glob(pattern)})
    if found == []:
        return None
    where = f"the tokenizer of {located.gguf or located.source}" + (f" ({', '.join(found)})" if found else "")
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.source, **located.options)
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise CheckpointError(
            f"Expected to read {where}, found it missing a part or damaged: {' '.join(str(error).split())[:300]}; copy "
            "it again."
        ) from error
    if not [token for token in ids if token != tokenizer.unk_token_id]:
        raise CheckpointError(
            f"Expected {where} to read a sentence, found that it knows no word of it: its vocabulary is missing or "
            "damaged; copy it again."
        )
    if located.gguf is not None and located.folder is not None:
        mend_tokenizer(tokenizer, check_gguf(located.folder / located.gguf), located.name)
    return tokenizer


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], **options: bool) -> str:
    """What tokens spell, as one text.

    Args:
        tokenizer: Theirs.
        ids: The tokens.
        options: Of the tokenizer's `decode`, such as `skip_special_tokens`.
    """
    text = tokenizer.decode(list(ids), **options)
    assert isinstance(text, str)  # a list only where several texts are decoded at once
    return text
