"""The past alone: a negative control, which any rule that needs recent tokens has to beat at the same size.

What it holds was chosen when the memory first filled up and hardly changes after that, so it also tells how much of a
score the newest tokens earn, which the selection protects and which no policy evicts.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView


class Oldest(Policy):
    """The oldest tokens survive, beside the protected newest."""

    name = "oldest"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the position: older is better; a threshold of -99 keeps the oldest hundred."""
        return -view.positions.float()
