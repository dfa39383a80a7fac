"""Recall tasks that are drawn, not read: evidence, filler, questions, and how answers are scored."""
