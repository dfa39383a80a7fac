"""Full cache: keeps everything, the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from namm.policies.base import Policy, TokenView


class Full(Policy):
    """Never evicts. With ``interval=None`` it never even updates."""

    name = "full"
    defaults: ClassVar[Mapping[str, Any]] = {"interval": None}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """All tokens are equal."""
        return view.positions.float() * 0.0
