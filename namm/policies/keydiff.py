"""KeyDiff: keys that are unlike the others draw attention, so the most alike go (arXiv 2504.15364).

No attention is looked at: a token's score is minus the cosine between its key and the mean of all normalised keys of
its head. Evicted tokens leave the mean, as in the paper's processing of a long prompt block by block.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from namm.policies.base import Policy, TokenView


class KeyDiff(Policy):
    """Keeps the tokens whose keys are least like the mean key."""

    name = "keydiff"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the cosine to the mean direction, from -1 (alike) to 1."""
        keys = view.keys().float()
        held = view.valid.unsqueeze(-1)
        mean = (normalize(keys, dim=-1) * held).sum(2, keepdim=True) / held.sum(2, keepdim=True)
        return -cosine_similarity(keys, mean, dim=-1)
