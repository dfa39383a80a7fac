"""How much an answer and a reference have in common: F1 over tokens, and ROUGE-L.

ROUGE-L is of the package `rouge`, which LongBench and ChouBun use, and ROUGE-Lsum of `rouge_score`, which InfiniteBench
uses: for the same texts they differ by several points.
"""

from __future__ import annotations

import logging
import re
import string
import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from namm.errors import MissingExtraError

ARTICLES = re.compile(r"\b(a|an|the)\b")

CJK_PUNCTUATION = (
    (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64), (0x3001, 0x3003),
    (0x300B, 0x3011), (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0x2013, 0x2014), (0x2018, 0x2019),
    (0x201B, 0x201F), (0x2026, 0x2027), (0xFE4F, 0xFE4F),
)  # fmt: skip
"""Code points, first and last, that LongBench and InfiniteBench strip from Chinese; 《 and 〈 〉 are not among them."""

STRIPPED_FROM_CHINESE = frozenset(string.punctuation) | {
    chr(point) for first, last in CJK_PUNCTUATION for point in range(first, last + 1)
}


def word_f1(prediction: str, reference: str) -> float:
    """F1 over English words without case, punctuation and articles, as in SQuAD (Rajpurkar et al., 2016)."""
    return _f1(_english_words(prediction), _english_words(reference))


def jieba_f1(prediction: str, reference: str) -> float:
    """F1 over jieba's words, without punctuation (LongBench)."""
    return _f1(*([word for part in _jieba(text) if (word := _chinese(part))] for text in (prediction, reference)))


def character_f1(prediction: str, reference: str) -> float:
    """F1 over characters without punctuation (InfiniteBench's Chinese questions)."""
    return _f1(_chinese(prediction), _chinese(reference))


def japanese_f1(prediction: str, reference: str) -> float:
    """F1 over fugashi's words as they stand (ChouBun)."""
    return _f1(_fugashi(prediction), _fugashi(reference))


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L of the package `rouge`; 0 where it gives up, as the benchmarks' scripts score that.

    It gives up on texts of nothing but full stops, and, because it recurses once a word, where a sentence of the answer
    and one of the reference have about a thousand words together. How many exactly depends on the calls that are
    already open, so it runs in a thread of its own: then the score depends on the texts alone, and equals the scripts'.
    """
    if not prediction.strip(".") or not reference.strip("."):
        return 0.0
    rouge, scores = _rouge(), [0.0]

    def score() -> None:
        with suppress(RecursionError):
            scores[0] = float(rouge.get_scores([prediction], [reference], avg=True)["rouge-l"]["f"])

    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    return scores[0]


def rouge_l_jieba(prediction: str, reference: str) -> float:
    """`rouge_l` over jieba's words (LongBench's Chinese tasks)."""
    return rouge_l(" ".join(_jieba(prediction)), " ".join(_jieba(reference)))


def rouge_l_japanese(prediction: str, reference: str) -> float:
    """`rouge_l` over fugashi's words (ChouBun)."""
    return rouge_l(" ".join(_fugashi(prediction)), " ".join(_fugashi(reference)))


def rouge_lsum(prediction: str, reference: str) -> float:
    """ROUGE-Lsum of the package `rouge_score`, without stemming, as `evaluate` calls it (InfiniteBench)."""
    return float(_google_rouge().score(reference, prediction)["rougeLsum"].fmeasure)


def _f1(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    common = (Counter(prediction) & Counter(reference)).total()
    if not common:
        return 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall)


def _english_words(text: str) -> list[str]:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return ARTICLES.sub(" ", bare).split()


def _chinese(text: str) -> str:
    return "".join("".join(c for c in text.lower() if c not in STRIPPED_FROM_CHINESE).split())


def _jieba(text: str) -> list[str]:
    return list(_jieba_module().cut(text, cut_all=False))


def _fugashi(text: str) -> list[str]:
    return [word.surface for word in _tagger()(text)]


@cache
def _jieba_module() -> Any:
    try:
        import jieba
    except ImportError:
        raise _missing("jieba") from None
    jieba.setLogLevel(logging.WARNING)
    return jieba


@cache
def _tagger() -> Any:
    try:
        from fugashi import Tagger  # pyright: ignore[reportAttributeAccessIssue]  (compiled, without stubs)
    except ImportError:
        raise _missing("fugashi") from None
    return Tagger("-Owakati")


@cache
def _rouge() -> Any:
    try:
        from rouge import Rouge
    except ImportError:
        raise _missing("rouge") from None
    return Rouge()


@cache
def _google_rouge() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise _missing("rouge_score") from None
    return rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=False)


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"expected the package {package}, with which this benchmark scores, found none; pip install 'namm-suite[text]'"
    )
