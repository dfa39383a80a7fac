"""ChouBun: long documents in Japanese, three tasks of questions and one of summaries (Cetin et al., 2024).

Rows and config folder have LongBench's form. Words are fugashi's, with the dictionary that is installed (unidic-lite
here): another dictionary cuts words elsewhere, so its version is part of the protocol.
"""

from __future__ import annotations

from evaluations.tasks.text.metrics import japanese_f1, rouge_l_japanese
from evaluations.tasks.text.prompted_records import Metric, PromptedRecords

QUESTIONS = Metric("F1 (fugashi)", japanese_f1, ("fugashi", "unidic-lite"))
SUMMARIES = Metric("ROUGE-L (fugashi)", rouge_l_japanese, ("rouge", "fugashi", "unidic-lite"))


class ChouBun(PromptedRecords):
    """The 4 tasks."""

    name = "choubun"
    dataset = "SakanaAI/ChouBun"
    config_source = "ChouBun/config of https://github.com/SakanaAI/evo-memory"
    tasks = ("wiki_qa", "edinet_qa", "corp_sec_qa", "corp_sec_sum")

    def metric(self, task: str) -> Metric:
        """F1 for questions, ROUGE-L for summaries."""
        return SUMMARIES if task == "corp_sec_sum" else QUESTIONS
