"""Key norm: keys of small L2 norm tend to draw attention, so the large ones go (arXiv 2406.11430)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView


class L2Norm(Policy):
    """Keeps the tokens whose keys are shortest."""

    name = "l2_norm"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the norm of the key (RoPE rotates and does not change it)."""
        return -view.keys().float().norm(dim=-1)
