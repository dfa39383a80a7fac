"""Metrics of the text benchmarks, each equal to what its benchmark's own script computes; scores from 0 to 1.

Libraries do what the scripts leave to them (jieba, fugashi, rouge, rouge_score), because near relatives of these give
other numbers: docs/benchmarks.md says by how much.
"""

from evaluations.tasks.text.metrics.choices import (
    chosen_letter,
    classification_score,
    count_score,
    only_label,
    retrieval_score,
    string_match_all,
    string_match_any,
)
from evaluations.tasks.text.metrics.code import code_similarity
from evaluations.tasks.text.metrics.overlap import (
    character_f1,
    japanese_f1,
    jieba_f1,
    rouge_l,
    rouge_l_japanese,
    rouge_l_jieba,
    rouge_lsum,
    word_f1,
)

__all__ = [
    "character_f1", "chosen_letter", "classification_score", "code_similarity", "count_score", "japanese_f1",
    "jieba_f1", "only_label", "retrieval_score", "rouge_l", "rouge_l_japanese", "rouge_l_jieba", "rouge_lsum",
    "string_match_all", "string_match_any", "word_f1",
]  # fmt: skip
