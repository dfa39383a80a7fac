"""Cuts the middle out of prompts that do not fit, as LongBench does: instructions stand at both ends.

The first and the last half of the tokens that fit are decoded, joined and, by the reader, tokenised again. Where the
halves meet, tokens may join or split, so the new prompt can be a token or two longer or shorter than the limit; the
NAMM paper's scores were measured so, and so are these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from namm.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_middle(
    prompt: str, tokenizer: PreTrainedTokenizerBase, limit: int, context_end: int | None = None
) -> tuple[str, int | None]:
    """The prompt, without its middle if it has more tokens than fit, and where its context ends then.

    Args:
        prompt: Whole.
        tokenizer: Of the model.
        limit: Most tokens, special tokens not counted: the model's window less the longest answer.
        context_end: Characters of the prompt that belong to the context.

    Returns:
        The prompt to tokenise, and the number of its characters that belong to the context; None where it is not known
        or what follows the context was cut into.

    Raises:
        ConfigError: The limit leaves no room for two tokens.
    """
    if limit < 2:
        raise ConfigError(
            f"expected room for two tokens of prompt or more, found {limit}; raise the window or shorten the answers"
        )
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if len(ids) <= limit:
        return prompt, context_end
    half = limit // 2
    # cast: a batch would be decoded to a list, one sequence is a string
    first, last = (cast("str", tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[-half:]))
    cut = first + last
    if context_end is None:
        return cut, None
    rest = prompt[context_end:]
    return cut, len(cut) - len(rest) if len(rest) < len(last) and cut.endswith(rest) else None
