"""A policy from outside; registered as an entry point of the group `namm.policies`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.policies import Policy, TokenView


class EveryOther(Policy):
    """Tokens at even positions before those at odd ones, newer before older."""

    name = "every_other"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        even = (view.positions % 2 == 0).float()
        return even * view.seen.max() - view.age.float()
