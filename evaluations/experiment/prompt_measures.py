"""What prompts took under a policy, as the metrics of a row: slots, bytes and seconds, whatever the prompts hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from modalities.language.reading import Costs


def measured(
    graded: Sequence[Mapping[str, Any]], head_slots: Float[np.ndarray, "layers kv_heads"], costs: Sequence[Costs]
) -> dict[str, Any]:
    """The metrics.

    Args:
        graded: Trials with `slots`, held when the question came, and `tokens`, seen until then.
        head_slots: The same for each layer and head, mean over the prompts.
        costs: Of every batch.
    """
    prompts = sum(cost.prompts for cost in costs)
    policy = [cost.policy_seconds for cost in costs if cost.policy_seconds is not None]
    return {
        "slots_mean": mean_of(graded, "slots"),
        "head_slots": head_slots.tolist(),
        "kept_fraction": float(np.mean([grade["slots"] / grade["tokens"] for grade in graded])),
        "evicted": sum(cost.evicted for cost in costs) / (prompts * head_slots.size),
        "evicting": float(np.mean([grade["slots"] < grade["tokens"] for grade in graded])),
        "tokens_seen": mean_of(graded, "tokens"),
        "bytes_mean": sum(cost.cache_bytes for cost in costs) / prompts,
        "bytes_peak": max(cost.peak_cache_bytes / cost.prompts for cost in costs),
        "state_bytes_mean": sum(cost.state_bytes for cost in costs) / prompts,
        "state_bytes_peak": max(cost.peak_state_bytes / cost.prompts for cost in costs),
        "prefill_seconds": sum(cost.prefill_seconds for cost in costs),
        "decode_seconds": sum(cost.decode_seconds for cost in costs),
        "policy_seconds": sum(policy) if len(policy) == len(costs) else None,
        "decoded_tokens": float(sum(cost.decoded_tokens for cost in costs)),
    }


def mean_of(graded: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean of one value of each trial."""
    return float(np.mean([grade[name] for grade in graded]))
