"""Attention over what a layer holds: its parts, and three ways to put them together.

:mod:`~namm.attention.parts` attends over some tokens such that results join. A layer attends in one of three ways: over
all that is held (:mod:`~namm.attention.held`, the rule), over what each token can reach (:mod:`~namm.attention.local`),
or as the released code rounds (:mod:`~namm.attention.eager`).
"""

from namm.attention.parts import additive, attend_part, attention_columns, join_parts

__all__ = ["additive", "attend_part", "attention_columns", "join_parts"]
