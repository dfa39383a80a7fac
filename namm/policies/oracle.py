"""The oracle: keeps what later queries will look at. No policy, but the ceiling of what one of its size can reach.

A token's score is the largest attention that any query after the update will give it in a pass under a full cache, over
the heads of the group too. That pass reads the context and what really follows, the answer included
(``modalities.foresight``), so it is available only where that is known, and says what could be had and not what was.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView


class Oracle(Policy):
    """Attention to come; heads of a layer compete for its slots."""

    name = "oracle"
    foresees = "future"
    reads_tokens = True
    defaults: ClassVar = {"head_allocation": "adaptive", "safeguard": 0.0}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Largest attention from 0 to 1; infinite for what the pass has not shown."""
        return view.foreseen()
