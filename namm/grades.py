"""What tokens are worth as somebody outside has judged, such as how well a frame fits a question by CLIP's judgement.

A policy that keeps what others find good (:mod:`namm.policies.graded`) looks it up by position. Whoever reads a text
or a video grades its tokens and tells the memory (``Memory.tell_grades``) before the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.errors import AttachError


@dataclass(frozen=True, eq=False)
class Grades:
    """Grades of the first tokens of a batch of sequences."""

    of: Mapping[str, Float[Tensor, "rows tokens"]]
    """By what was judged. Larger is better, +inf is surely kept, and so is every later token."""

    def select(self, rows: Int[Tensor, " rows"]) -> Grades:
        """Of these sequences, in this order."""
        return Grades({name: grades[rows.to(grades.device)] for name, grades in self.of.items()})

    def at(
        self, name: str, rows: Int[Tensor, " rows"], positions: Int[Tensor, "rows kv_heads slots"]
    ) -> Float[Tensor, "rows kv_heads slots"]:
        """Grades of some tokens; +inf for those that nobody judged, 0 in unused slots.

        Args:
            name: What was judged.
            rows: The sequences.
            positions: Absolute positions; negative in unused slots.

        Raises:
            AttachError: Nobody judged this, or for fewer sequences.
        """
        grades = self.of.get(name)
        if grades is None or int(rows.max()) >= grades.shape[0]:
            told = (
                f"{', '.join(self.of) or 'nothing'}, of {max((len(g) for g in self.of.values()), default=0)} sequences"
            )
            raise AttachError(
                f"The policy keeps what is best by {name!r} and judges sequence {int(rows.max())}; the memory was told "
                f"of {told}. Tell it the grades of the whole batch."
            )
        mine = grades.to(positions.device)[rows.to(positions.device)]
        known = (positions >= 0) & (positions < mine.shape[1])
        place = positions.clamp(0, max(0, mine.shape[1] - 1)).flatten(1)
        found = mine.gather(1, place).view(positions.shape) if mine.shape[1] else torch.zeros_like(positions).float()
        return torch.where(known, found.float(), torch.inf).masked_fill(positions < 0, 0.0)
