"""Which tokens of a vocabulary are special and which are punctuation, for policies that treat these in their own way.

make_policy("fastgen", **token_kinds(tokenizer))
"""

from __future__ import annotations

import unicodedata

from transformers import PreTrainedTokenizerBase


def token_kinds(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """Ids of the special tokens, and of the tokens that are nothing but punctuation (Unicode's P categories).

    Args:
        tokenizer: Of the model that the policy will be attached to.

    Returns:
        The keys ``special_ids`` and ``punctuation_ids``.
    """
    special = sorted(set(tokenizer.all_special_ids))
    texts = tokenizer.batch_decode([[index] for index in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    punctuation = [index for index, text in enumerate(texts) if _is_punctuation(text.strip())]
    return {"special_ids": tuple(special), "punctuation_ids": tuple(sorted(set(punctuation) - set(special)))}


def _is_punctuation(text: str) -> bool:
    return bool(text) and all(unicodedata.category(character).startswith("P") for character in text)
