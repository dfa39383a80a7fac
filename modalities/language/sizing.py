"""One threshold for all heads and layers under which a policy keeps a wanted part of the tokens, without labels.

A budget gives every head the same, or lets the heads of one layer compete. A threshold divides freely over all heads
and layers, and over easy and hard texts too, but what it keeps is known only when it has been tried: scores have
units, and what has gone changes the scores of what stays. So it is searched for by reading under the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from modalities.language.prompts import Prompt, groups_of
from modalities.language.reading import read
from namm.policies import Policy
from namm.sizing import STEPS, Sized, found_size


def threshold_for(
    model: PreTrainedModel,
    make: Callable[[float], Policy],
    texts: Sequence[Sequence[int]],
    kept_fraction: float,
    steps: int = STEPS,
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
    prompts = [Prompt(tuple(text[:-1]), tuple(text[-1:])) for text in texts]
    return found_size(make, lambda policy: _held(model, policy, prompts), kept_fraction, steps)


def _held(model: PreTrainedModel, policy: Policy, prompts: Sequence[Prompt]) -> float:
    """Slots held / tokens seen at the ends of the texts, mean over them."""
    answers, _ = read(model, policy, prompts, groups_of(prompts))
    return sum(answer.slots / answer.context_tokens for answer in answers.values()) / len(answers)
