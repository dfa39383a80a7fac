"""Similarity of code, as LongBench's completion tasks measure it."""

from __future__ import annotations

from difflib import SequenceMatcher

NOT_CODE = ("`", "#", "//")


def code_similarity(prediction: str, reference: str) -> float:
    """How alike the answer's first line of code and the reference are, in hundredths.

    The ratio is difflib's, rounded: what `fuzzywuzzy` computes without python-Levenshtein, as LongBench's requirements
    install it. Levenshtein's ratio, also rapidfuzz's, is another number.

    Args:
        prediction: The answer; its first line without backtick, # and // counts, after leading newlines.
        reference: The right line.
    """
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in NOT_CODE)), "")
    if line == reference:
        return 1.0
    if not line or not reference:
        return 0.0
    return round(100 * SequenceMatcher(None, line, reference).ratio()) / 100
