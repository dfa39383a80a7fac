"""Heavy hitters: the tokens that received most attention so far (H2O, arXiv 2306.14048).

``h2o`` sums attention over all queries, which favours old tokens: they have been looked at more often. ``h2o_age``
divides by the number of queries that could look, and is the stronger rival on recall.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Places, Policy, Selection, State, TokenView


class H2O(Policy):
    """Accumulated attention mass; a share of the budget may be set aside for the newest tokens."""

    name = "h2o"
    observes_attention = True
    observes_in_pieces = 1

    def __init__(self, selection: Selection, recent_fraction: float = 0.0) -> None:
        """Keeps ``recent_fraction`` of the budget for the newest tokens.

        Args:
            selection: The shared selection rule.
            recent_fraction: The paper splits evenly (0.5); 0, the default, spends all on heavy hitters, which is the
                better baseline where evidence is old.

        Raises:
            ConfigError: The fraction is not in [0, 1].
        """
        super().__init__(selection)
        if not 0.0 <= recent_fraction <= 1.0:
            raise ConfigError(f"recent_fraction must lie in [0, 1], found {recent_fraction}.")
        self.recent_fraction = recent_fraction

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """One number a token: the attention it has received."""
        return {"mass": ()}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """Adds the interval's attention."""
        return {"mass": state["mass"] + columns.sum(-1)}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """The mass; the newest share of the budget outranks it."""
        score = self._heaviness(view)
        if self.recent_fraction and self.selection.budget:
            recent = view.age < round(self.recent_fraction * self.selection.budget)
            score = score + recent.float() * 1e9
        return score

    def _heaviness(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        return view.state["mass"]

    def describe(self) -> dict[str, object]:
        """Facts for a row."""
        return {**super().describe(), "recent_fraction": self.recent_fraction}


class H2OByAge(H2O):
    """Mean attention over the queries that could see the token."""

    name = "h2o_age"

    def _heaviness(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        return view.state["mass"] / (view.age + 1).float()
