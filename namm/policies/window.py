"""Recency: the newest tokens, with or without the first few as attention sinks.

The sinks come from the selection's ``protected_first``; four as in StreamingLLM (arXiv 2309.17453). Tokens keep their
positions in the text, or, as in the paper, count as if nothing had been between sinks and window (``renumber``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError
from namm.policies.base import Policy, Selection, TokenView


class Window(Policy):
    """The newest tokens survive."""

    name = "window"

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Minus the age: newer is better; a threshold of -99 keeps the newest hundred."""
        return -view.age.float()


class SinkWindow(Window):
    """The first few tokens and the newest survive."""

    name = "sink_window"
    defaults: ClassVar[Mapping[str, Any]] = {"protected_first": 4}

    def __init__(self, selection: Selection, renumber: object = False) -> None:
        """Sinks where they were read, or where the cache has them.

        Args:
            selection: The shared selection rule; ``protected_first`` are the sinks.
            renumber: Whether to turn the sinks' keys to their positions within the cache, as the paper does; only for
                models with rotary positions.

        Raises:
            ConfigError: ``renumber`` is neither True nor False.
        """
        super().__init__(selection)
        if not isinstance(renumber, bool):
            raise ConfigError(f"renumber must be True or False, found {renumber!r}.")
        self.renumbers = self.reads_rotation = renumber

    def describe(self) -> dict[str, object]:
        """Facts for a row; without renumbering those that rows have always had."""
        return {**super().describe(), **({"renumber": True} if self.renumbers else {})}
