"""KeyDiff: keys that are unlike the others draw attention, so the most alike go (arXiv 2504.15364).

No attention is looked at: a token's score is minus the cosine between its key and the mean of all normalised keys of
its head. Evicted tokens leave the mean, as in the paper's processing of a long prompt block by block.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView
from namm.signals import key_difference


class KeyDiff(Policy):
    """Keeps the tokens whose keys are least like the mean key."""

    name = "keydiff"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the cosine to the mean direction, from -1 (alike) to 1."""
        return key_difference(view.keys(), view.valid)
