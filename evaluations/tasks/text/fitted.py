"""Prompts as the ids that a model reads: wrapped, with special tokens, and never longer than the room there is.

Whatever is put around a prompt (a chat template, the token that begins a text) takes room, so it is measured first, and
the middle is cut out of what the benchmark wrote. Where the halves meet tokens may join or split; the halves are then
made shorter until the whole fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, cast

import jinja2

from evaluations.tasks.text.truncation import cut_middle
from namm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST = 2
"""Tokens of a prompt that must be left of it."""


@dataclass(frozen=True)
class Fitted:
    """A prompt as it is read."""

    ids: list[int]
    """Everything: the template, special tokens, what is left of the prompt."""
    was_cut: bool
    tokens: int
    """Of the whole prompt, wrapped, before anything was cut."""
    question_tokens: int
    """Last ones that do not belong to the context, the end of the template among them; 0 where nobody knows."""


class Wrapping:
    """A model's chat template around one turn of the user."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def around(self, text: str) -> str:
        """The text as the user's turn, and the beginning of the answer.

        Raises:
            DataError: The template fails, or leaves the text out.
        """
        try:
            turns = [{"role": "user", "content": text}]
            # cast: untokenised, one conversation is a string
            whole = cast("str", self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"The chat template of the tokenizer: expected one that takes a turn of the user, found: {error}. "
                "Leave --chat-template out, or give the tokenizer another."
            ) from error
        if text.strip() not in whole:
            raise DataError(
                "The chat template of the tokenizer: expected the prompt in what it makes of it, found a text without "
                "it. Leave --chat-template out, or give the tokenizer another."
            )
        return whole

    @cached_property
    def sha256(self) -> str:
        """Identity of the template, by what it makes of a text."""
        return sha256(self.around("text").encode(errors="surrogatepass")).hexdigest()


def fitted(
    prompt: str,
    context_end: int | None,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    wrapping: Wrapping | None = None,
    name: str = "A prompt",
) -> Fitted:
    """A prompt as ids, of which there are at most so many.

    Args:
        prompt: Whole.
        context_end: Characters of it that belong to the context; None where that is not known.
        tokenizer: Of the model.
        limit: Most ids: the window less the longest answer.
        wrapping: What is put around it; None for nothing but the tokenizer's own special tokens.
        name: Of the prompt, for messages.

    Raises:
        ConfigError: What is wrapped around leaves no room.
        DataError: The prompt has fewer than two tokens, or the template does not take it.
    """

    def read(text: str) -> list[int]:
        if wrapping is None:
            return tokenizer(text)["input_ids"]  # with the token that begins a text
        return _plain(tokenizer, wrapping.around(text))  # a template writes such tokens itself

    ids = read(prompt)
    tokens, end, text, room = len(ids), context_end, prompt, limit
    if tokens > limit:
        room -= tokens - len(_plain(tokenizer, prompt))
    while len(ids) > limit:
        if room < SHORTEST:
            raise ConfigError(
                f"{name}: expected room for a prompt in {limit} tokens, found that all but {max(room, 0)} go to the "
                "chat template and special tokens; pass a larger --window."
            )
        text, end = cut_middle(prompt, tokenizer, room, context_end)
        ids = read(text)
        room -= max(1, len(ids) - limit)
    if len(ids) < 2:
        raise DataError(f"{name} has fewer than two tokens.")
    asked = 0 if end is None or context_end is None else _asked(text, end, tokenizer, wrapping)
    return Fitted(ids, tokens > limit, tokens, asked)


def _asked(text: str, context_end: int, tokenizer: PreTrainedTokenizerBase, wrapping: Wrapping | None) -> int:
    """Tokens from the end of the context on."""
    rest = text[context_end:]
    if wrapping is None:
        return len(_plain(tokenizer, rest))
    whole = wrapping.around(text)
    end = whole.rfind(text.strip()) + len(text.strip())
    return len(_plain(tokenizer, rest.rstrip() + whole[end:]))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
