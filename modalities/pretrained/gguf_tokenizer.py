"""Cuts text for a GGUF file's tokenizer as its makers did.

A byte-level vocabulary is only as good as what cuts text before merges are applied. A GGUF file names that, and
transformers (5.24) knows some of the names; for the others it cuts as GPT-2 does, without a word: SmolLM2 would then
read "\\n\\n1" as other tokens than it was trained on.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

from tokenizers import pre_tokenizers

from modalities.pretrained.gguf_file import GgufFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGIT_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
"""Every digit is cut off first; then as GPT-2 does."""
LIKE_GPT2 = frozenset({"gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "jina-es", "jina-de", "gigachat"})


def cut_by(facts: GgufFacts) -> str:
    """Who decides what cuts a file's text before merges: "namm-suite", "transformers", or "unknown"."""
    pre = facts.pre_tokenizer
    if facts.tokenizer != "gpt2" or pre in LIKE_GPT2 or pre in _known_to_transformers():
        return "transformers"
    return "namm-suite" if pre in DIGIT_BY_DIGIT else "unknown"


def mend_tokenizer(tokenizer: PreTrainedTokenizerBase, facts: GgufFacts, name: str) -> None:
    """Sets what cuts text before merges, where that is known here; warns where nobody knows it.

    Args:
        tokenizer: As transformers made it of the file; changed in place.
        facts: Of the file.
        name: Of the model, for the warning.
    """
    who = cut_by(facts)
    if who == "namm-suite":
        # Any: what transformers makes of a GGUF file has the Rust tokenizer, which its base class does not say
        cast("Any", tokenizer).backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif who == "unknown":
        warnings.warn(
            f"{name} cuts text in a way called {facts.pre_tokenizer!r}, which neither transformers nor this project "
            "knows; it is cut as GPT-2 does, perhaps into other tokens than the model was trained on. Scores may be "
            "too low.",
            stacklevel=3,
        )


def _known_to_transformers() -> frozenset[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # releases before 5.24
        return frozenset()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)
