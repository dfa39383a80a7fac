"""FastGen: every head gets the cheapest kind of cache that recovers its attention (arXiv 2310.01801).

At its first update (the prompt's, under ``schedule="prompt"``) a head is profiled: special tokens; those and
punctuation; those and the tokens of most attention so far; those and the newest; everything (the paper's equation 2).
The first of these, so the smallest, that would have recovered the wanted share of attention (its equation 1, in the
words of section 4.1) is the head's from then on. Without ids of special tokens and punctuation
(:func:`modalities.language.token_kinds.token_kinds`) the first token alone is special and nothing is punctuation.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.allocation import rank_by_score
from namm.policies.base import Places, Policy, Selection, State, TokenView

MEMBER = 1.0
"""Scores of a head's kind begin here, all others lie below."""


class FastGen(Policy):
    """A kind of cache for each head, chosen once; larger shares of attention first within a kind."""

    name = "fastgen"
    observes_attention = True

    def __init__(
        self,
        selection: Selection,
        special_ids: Sequence[int] = (),
        punctuation_ids: Sequence[int] = (),
        recovery: float = 0.95,
        frequent: float = 0.3,
        local: float = 0.3,
    ) -> None:
        """What a head's cache must recover, and how large its parts are: the paper's sections 4.1 and 5.1.

        Args:
            selection: The shared selection rule.
            special_ids: Vocabulary ids of special tokens; without any, the first token of a sequence is special.
            punctuation_ids: Vocabulary ids of punctuation.
            recovery: Share of attention that a kind of cache must have recovered to be chosen.
            frequent: Tokens of most attention, as a share of the tokens seen.
            local: Newest tokens, likewise.

        Raises:
            ConfigError: A share outside [0, 1].
        """
        super().__init__(selection)
        for label, share in (("recovery", recovery), ("frequent", frequent), ("local", local)):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{label} is a share from 0 to 1, found {share}.")
        self.special_ids, self.punctuation_ids = tuple(special_ids), tuple(punctuation_ids)
        self.recovery, self.frequent, self.local = recovery, frequent, local
        self.reads_tokens = bool(self.special_ids or self.punctuation_ids)

    @classmethod
    def make_selection(cls, given: Mapping[str, Any]) -> Selection:
        """Without a budget every head keeps just its kind; with one, heads compete for it, their kinds going first."""
        sized = "budget" in given or "head_budgets" in given
        own = {"head_allocation": "adaptive"} if sized else {"threshold": MEMBER}
        return Selection(**{**own, **given})

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Attention received so far, and in the last interval from queries nearby."""
        return {"mass": (), "nearby": ()}

    def head_state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Which kind of cache, from 1; 0 before it is chosen."""
        return {"kind": ()}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """Adds the interval's attention, and tells apart what came from no farther than the local part reaches."""
        reach = torch.ceil(self.local * (places.queries[:, -1:] + 1))[:, None, None]
        nearby = (places.distance < reach) & (places.distance >= 0)
        return {"mass": state["mass"] + columns.sum(-1), "nearby": (columns * nearby).sum(-1)}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """A token's share of its head's attention, and 1 more for each reason that the head's kind has to keep it."""
        mass, valid = view.state["mass"].masked_fill(~view.valid, 0.0), view.valid
        special, punctuation = self._marked(view)
        frequent = rank_by_score(mass, valid) < torch.ceil(self.frequent * view.seen)[:, None, None]
        newest = view.age < torch.ceil(self.local * view.seen)[:, None, None]
        small = special | punctuation
        kinds = [special, small, small | (frequent & valid), small | ((frequent | newest) & valid), valid]

        total = mass.sum(-1).clamp_min(math.ulp(1.0))
        recovered = [torch.where(kind, mass, 0.0).sum(-1) / total for kind in kinds]
        # what the newest tokens recover is what each query gave to the newest of its own time
        recovered[3] = torch.where(kinds[2], mass, view.state["nearby"].masked_fill(~valid, 0.0)).sum(-1) / total
        recovered[4] = torch.ones_like(total)
        cheapest = torch.stack(recovered, dim=-1).ge(self.recovery).to(torch.int8).argmax(-1) + 1
        chosen = view.head_state["kind"]
        chosen[:] = torch.where(chosen > 0, chosen, cheapest.to(chosen.dtype))

        member = torch.stack(kinds, dim=-1).gather(-1, (chosen.long() - 1)[:, :, None, None].expand(*mass.shape, 1))
        rank = MEMBER + 2.0 * special + 1.0 * (punctuation & ~special)
        share = (mass / total[..., None]).clamp_max(1.0 - 1e-6)
        return share + torch.where(member.squeeze(-1), rank, 0.0)

    def _marked(
        self, view: TokenView
    ) -> tuple[Bool[Tensor, "batch kv_heads slots"], Bool[Tensor, "batch kv_heads slots"]]:
        """Special tokens and punctuation."""
        if not self.reads_tokens:
            return view.positions == 0, torch.zeros_like(view.valid)
        ids = view.token_ids()
        special, punctuation = (
            torch.isin(ids, torch.tensor(known, device=ids.device, dtype=ids.dtype)) & view.valid
            for known in (self.special_ids, self.punctuation_ids)
        )
        return special if self.special_ids else view.positions == 0, punctuation

    def describe(self) -> dict[str, object]:
        """Facts for a row; the ids as a digest, for there can be thousands."""
        ids = hashlib.sha256(repr((self.special_ids, self.punctuation_ids)).encode()).hexdigest()[:16]
        return {
            **super().describe(),
            "recovery": self.recovery,
            "frequent": self.frequent,
            "local": self.local,
            "special_ids": len(self.special_ids),
            "punctuation_ids": len(self.punctuation_ids),
            "ids_sha256": ids,
        }
