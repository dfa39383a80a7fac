"""Prompts that do not fit lose their middle."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from evaluations.tasks.text.truncation import cut_middle
from namm.errors import ConfigError

TOKENIZER = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER_FOLDER / "tokenizer.json"))
PROMPT = "First say hello.\n" + "The boats lie in the harbour and wait.\n" * 40 + "Which colour has the boat?"


def tokens(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_that_fits_stays_whole() -> None:
    assert cut_middle(PROMPT, TOKENIZER, len(tokens(PROMPT)), 99) == (PROMPT, 99)


def test_both_ends_are_kept_in_halves_of_tokens() -> None:
    limit = 101
    cut, _ = cut_middle(PROMPT, TOKENIZER, limit)
    first, last = TOKENIZER.decode(tokens(PROMPT)[:50]), TOKENIZER.decode(tokens(PROMPT)[-50:])
    assert cut == first + last
    assert PROMPT.startswith(first)
    assert PROMPT.endswith(last)
    assert abs(len(tokens(cut)) - 100) <= 2


def test_the_end_of_the_context_moves_with_the_cut() -> None:
    question = "Which colour has the boat?"
    cut, end = cut_middle(PROMPT, TOKENIZER, 100, len(PROMPT) - len(question))
    assert end is not None
    assert cut[end:] == question
    assert cut_middle(PROMPT, TOKENIZER, 4, len(PROMPT) - len(question))[1] is None
    assert cut_middle(PROMPT, TOKENIZER, 100)[1] is None


def test_no_room_is_told() -> None:
    with pytest.raises(ConfigError, match="expected room for two tokens"):
        cut_middle(PROMPT, TOKENIZER, 1)
