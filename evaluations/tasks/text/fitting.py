"""Makes a context as long as fits into so many tokens, for any tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from namm.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Made = TypeVar("Made")

TRIALS = 8
CLOSE = 0.01
"""Part of the room that may stay empty."""


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens that a model reads for a text, special ones included."""
    return len(tokenizer(text)["input_ids"])


def most_that_fits(size: Callable[[int], int], room: int, least: int, what: str, at_most: int | None = None) -> int:
    """The most units of a context whose prompt fits.

    Args:
        size: Tokens of the prompt with so many units; it grows with them, or nearly so.
        room: Tokens there are.
        least: Units that a prompt needs.
        what: The task and length, for the message.
        at_most: Units that there are; None: as many as one likes.

    Raises:
        DataError: Not even the least fits, or the tokenizer counts nothing.
    """
    if (smallest := size(least)) > room:
        raise DataError(
            f"expected room for {smallest} tokens, the shortest prompt of {what}, found {room}; choose a greater length"
        )
    low, high = least, least + 1
    while (at_most is None or high <= at_most) and size(high) <= room:
        if high > 4 * max(room, 16) + least:
            raise DataError(
                f"expected a tokenizer that counts at least a token every four units, found {size(high)} tokens for "
                f"{high} units of {what}; is this the model's tokenizer?"
            )
        low, high = high, least + 2 * (high - least)
    high = high if at_most is None else min(high, at_most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= room else (low, middle)
    return low


def fit(
    make: Callable[[int], Made],
    size: Callable[[Made], int],
    room: int,
    units: int,
    least: int,
    at_most: int | None = None,
) -> Made:
    """What is made of as many units as fit, or nearly: units are not equally long, and each trial is tokenised.

    Args:
        make: Makes a prompt of so many units.
        size: Its tokens.
        room: Tokens there are.
        units: To begin with; what fits on average.
        least: Units that a prompt needs.
        at_most: Units that there are.

    Raises:
        DataError: Not even the least fits.
    """
    best: Made | None = None
    most = -1
    for _ in range(TRIALS):
        made = make(units)
        used = size(made)
        if used <= room and units > most:
            best, most = made, units
        elif used > room and units == least:
            raise DataError(f"expected room for {used} tokens, the shortest prompt here, found {room}")
        if used <= room and room - used < CLOSE * room:
            break
        change = int((room - used) * max(units, 1) / used)
        # a step down must leave what does not fit, a step up must not end below what fits
        units = max(units + (change or -1 if used > room else change), most, least)
        units = units if at_most is None else min(units, at_most)
        if units == most:
            break
    return best if best is not None else fit(make, size, room, max(least, units - max(1, units // 20)), least, at_most)
