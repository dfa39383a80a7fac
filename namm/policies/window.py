"""Recency: the newest tokens, with or without the first few as attention sinks.

The sinks come from the selection's ``protected_first``; four as in StreamingLLM (arXiv 2309.17453).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView


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
