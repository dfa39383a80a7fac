"""The policies that read text; who is given which size is the same wherever there are prompts."""

from __future__ import annotations

from collections.abc import Sequence

from evaluations.experiment import matched_plan
from evaluations.experiment.names import NAMMS, RELEASED, NamedPolicy, rivals, with_heads
from evaluations.rows.policy_names import FULL

OFFERED = (FULL, *NAMMS, RELEASED, *rivals())
"""Policies that read prompts."""
NAMES = (*OFFERED, *with_heads(rivals()))
"""The same, and each rival with the NAMM's own division over layers and heads."""


def chosen(names: Sequence[str], match: str | None, sized: bool) -> tuple[tuple[NamedPolicy, ...], str | None]:
    """See `evaluations.experiment.matched_plan.chosen`."""
    return matched_plan.chosen(names, match, sized, NAMES)
