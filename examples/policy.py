"""A policy of your own in twenty lines, compared with others at equal memory: `python examples/policy.py`.

From a package of yours it needs no script: name it as an entry point of the group `namm.policies`, and every command
knows it (docs/write_a_policy.md).
"""

from __future__ import annotations

import sys

from jaxtyping import Float
from torch import Tensor

from namm.policies import POLICIES, Policy, State, TokenView


@POLICIES.register
class PeakAttention(Policy):
    """Keeps the tokens that some query once looked at most."""

    name = "peak_attention"
    observes_attention = True

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """What it remembers."""
        return {"peak": ()}  # one number a token, zero at first

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: object) -> State:
        """Folds an interval's attention in."""
        return {"peak": state["peak"].maximum(columns.amax(dim=-1))}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Larger is kept."""
        return view.state["peak"]


def main(argv: list[str]) -> int:
    """The command `namm-text`, which now knows it; options given here win."""
    from evaluations.text import main as namm_text  # after the policy has its name

    policies = ["--policy", "full", "namm", "h2o", "window", "peak_attention"]
    short = ["--tasks", "pairs", "--prompts", "8", "--out", "results/policy", "--example-tokens", "0"]
    return namm_text([*policies, *short, *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
