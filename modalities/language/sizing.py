"""One threshold for all heads and layers under which a policy keeps a wanted part of the tokens, without labels.

A budget gives every head the same, or lets the heads of one layer compete. A threshold divides freely over all heads
and layers, and over easy and hard texts too, but what it keeps is known only when it has been tried: scores have
units, and what has gone changes the scores of what stays. So it is searched for by reading under the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from modalities.language.prompts import Prompt, groups_of
from modalities.language.reading import read
from namm.errors import ConfigError, DataError
from namm.policies import Policy, TokenView


class Sized(NamedTuple):
    """A threshold, and the part of the tokens that was held under it at the ends of the texts it was found on."""

    threshold: float
    kept_fraction: float


def threshold_for(
    model: PreTrainedModel,
    make: Callable[[float], Policy],
    texts: Sequence[Sequence[int]],
    kept_fraction: float,
    steps: int = 8,
) -> Sized:
    """The threshold under which a policy keeps nearest to a part of the tokens, mean over texts, layers and heads.

    Args:
        model: A causal language model.
        make: The policy under a threshold, such as ``lambda x: make_policy("keydiff", interval=64, threshold=x)``.
        texts: Token ids; no answer or label is used. Results on other texts differ from the fraction as these do.
        kept_fraction: Slots held / tokens seen that is wanted, between 0 and 1.
        steps: Readings of all texts, beside the first.

    Raises:
        ConfigError: A fraction that cannot be.
        DataError: No update happened: the texts are shorter than the interval.
    """
    if not 0.0 < kept_fraction < 1.0 or steps < 1:
        raise ConfigError(f"Expected a fraction between 0 and 1 and 1 step or more, found {kept_fraction} and {steps}.")
    prompts = [Prompt(tuple(text[:-1]), tuple(text[-1:])) for text in texts]
    first = make(-torch.finfo(torch.float32).max)
    scores = _watched(first)
    _held(model, first, prompts)
    if not scores:
        raise DataError(f"The texts, of {[len(text) for text in texts]} tokens, are too short for an update.")
    ranked = torch.cat(scores).sort().values
    low, high, best = 0, ranked.numel() - 1, None
    for _ in range(steps):
        middle = (low + high) // 2
        threshold = float(ranked[middle])
        found = Sized(threshold, _held(model, make(threshold), prompts))
        if best is None or abs(found.kept_fraction - kept_fraction) < abs(best.kept_fraction - kept_fraction):
            best = found
        low, high = (middle, high) if found.kept_fraction > kept_fraction else (low, middle)
    assert best is not None
    return best


def _held(model: PreTrainedModel, policy: Policy, prompts: Sequence[Prompt]) -> float:
    """Slots held / tokens seen at the ends of the texts, mean over them."""
    answers, _ = read(model, policy, prompts, groups_of(prompts))
    return sum(answer.slots / answer.context_tokens for answer in answers.values()) / len(answers)


def _watched(policy: Policy) -> list[Float[Tensor, " tokens"]]:
    """From now on, the finite scores that the policy gives."""
    found: list[Tensor] = []
    original = policy.score

    def score(view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        scores = original(view)
        found.append(scores[view.valid & scores.isfinite()].float().cpu())
        return scores

    policy.score = score
    return found
