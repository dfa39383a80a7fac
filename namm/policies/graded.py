"""Keeps what somebody outside has graded best: frames that fit the question, or that differ from the one before.

The grades are told (:mod:`namm.grades`), for only whoever reads knows what the tokens stand for. Tokens of one frame
have one grade, so frames go as wholes, the worst first; where the budget ends within one, its newest tokens stay, so
that memory can be equal. Tokens without a grade, such as text, stay.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, Selection, TokenView


class Graded(Policy):
    """The grade is the score; of equals the newer stays."""

    name = "graded"
    reads_grades = True

    def __init__(self, selection: Selection, by: str = "relevance") -> None:
        """Which grade counts.

        Args:
            selection: The shared selection rule.
            by: What was judged, as whoever tells the grades calls it.
        """
        super().__init__(selection)
        self.by = by

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """The grade; infinite for tokens that have none."""
        return view.grades(self.by)

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "by": self.by}
