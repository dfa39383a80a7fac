"""A language model's tokenizer: there, not there, or damaged, which are three things.

transformers makes a tokenizer of what it finds: without its vocabulary it may be one that knows no word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def read_tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    """A model's tokenizer; None where its folder holds none.

    Args:
        name: A folder or a Hub id.

    Raises:
        CheckpointError: There is one, and it cannot be read, or reads nothing.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    found = sorted({path.name for pattern in FILES for path in folder.glob(pattern)}) if folder.is_dir() else None
    if found == []:
        return None
    where = f"the tokenizer of {name}" + (f" ({', '.join(found)})" if found else "")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise CheckpointError(
            f"Expected to read {where}, found it missing a part or damaged: {' '.join(str(error).split())[:300]}; copy "
            "it again."
        ) from error
    known = [token for token in ids if token != tokenizer.unk_token_id]
    if not known:
        raise CheckpointError(
            f"Expected {where} to read a sentence, found that it knows no word of it: its vocabulary is missing or "
            "damaged; copy it again."
        )
    return tokenizer
