"""Simple cuts of a `DynamicCache` while an agent acts: the yardsticks that the control recipes put into their cards.

They are deliberately independent of the project's own memory: a rule names the slots to keep, and the cache's tensors
are indexed with them whenever `interval` more tokens have been seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from modalities.control.agents import ControlModel, IncrementalAgent

SINKS = 4
"""First tokens that the sink rule always keeps."""
PROTECTED = 3
"""Newest tokens that the random rule always keeps."""


class EvictingAgent(IncrementalAgent):
    """Acts with a cache that is cut to `budget` slots after every `interval` tokens.

    Args:
        control: The model and its facts.
        rule: "newest", "sink" (the first `SINKS` and the newest) or "random" (a draw per layer, head and sequence, and
            the newest `PROTECTED`).
        budget: Slots kept at a cut.
        interval: Tokens between two cuts.
        seed: Seed of the random rule.
    """

    def __init__(self, control: ControlModel, rule: str, budget: int, interval: int = 48, seed: int = 0) -> None:
        super().__init__(control)
        self.rule, self.budget, self.interval = rule, budget, interval
        self.generator = torch.Generator().manual_seed(seed)

    def reset(self, batch: int) -> None:
        """Forgets everything; `batch` episodes start."""
        super().reset(batch)
        self.since_cut = 0

    def act(self, states: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> Tensor:
        """As `IncrementalAgent.act`, then cuts the cache if it is time."""
        first = self.previous is None
        actions = super().act(states, returns_to_go, timesteps)
        self.since_cut += 2 if first else 3
        if self.since_cut >= self.interval:
            self.since_cut -= self.interval
            for layer in self.cache.layers:
                index = self.keep(layer.keys.shape[:3])[..., None].expand(-1, -1, -1, layer.keys.shape[3])
                layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
        return actions

    def keep(self, shape: tuple[int, int, int]) -> Int[Tensor, "batch heads kept"]:
        """Slots to keep in a layer of shape (batch, heads, slots), ascending."""
        slots, budget = shape[2], self.budget
        if slots <= budget:
            kept = torch.arange(slots)
        elif self.rule == "newest":
            kept = torch.arange(slots - budget, slots)
        elif self.rule == "sink":
            kept = torch.cat([torch.arange(SINKS), torch.arange(slots - budget + SINKS, slots)])
        else:
            luck = torch.rand(shape, generator=self.generator)
            luck[..., slots - PROTECTED :] = 2.0
            return luck.topk(budget, dim=-1).indices.sort(-1).values
        return kept.expand(*shape[:2], -1)


class KnowingAgent(EvictingAgent):
    """Keeps the states that show what will be asked for, and the newest tokens: no policy, but what a size can hold.

    For `rollout` in one lane, with episodes of one length; its `on_start` is `told`.

    Args:
        control: The model and its facts.
        budget: Slots kept at a cut.
        interval: Tokens between two cuts.
    """

    def __init__(self, control: ControlModel, budget: int, interval: int = 48) -> None:
        super().__init__(control, "cues", budget, interval)

    def told(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Learns which steps show the cues of each episode; one number of cues for all."""
        self.cues = torch.tensor([info["cue_steps"] for info in infos]) * 3 + 1  # R_t, s_t, a_t

    def reset(self, batch: int) -> None:
        """Forgets everything; `batch` episodes start."""
        super().reset(batch)
        self.seen, self.held = 0, torch.zeros(batch, 0, dtype=torch.long)

    def act(self, states: Tensor, returns_to_go: Tensor, timesteps: Tensor) -> Tensor:
        """As `EvictingAgent.act`."""
        added = 2 if self.previous is None else 3
        self.seen += added
        new = torch.arange(self.seen - added, self.seen).expand(len(states), -1)
        self.held = torch.cat([self.held, new], dim=1)
        actions = super().act(states, returns_to_go, timesteps)
        slots = self.cache.layers[0].keys.shape[2]
        if slots < self.held.shape[1]:
            self.held = self.held.gather(1, self.chosen(slots))
        return actions

    def keep(self, shape: tuple[int, int, int]) -> Int[Tensor, "batch heads kept"]:
        """Slots to keep in a layer of shape (batch, heads, slots), ascending."""
        return self.chosen(min(self.budget, shape[2]))[:, None].expand(-1, shape[1], -1)

    def chosen(self, count: int) -> Int[Tensor, "batch kept"]:
        """So many of the slots held: cues before others, newer ones first."""
        cue = (self.held[:, :, None] == self.cues[:, None]).any(-1)
        return (self.held + cue * self.seen).topk(count, dim=1).indices.sort(-1).values


def agent_of(control: ControlModel, rule: str | None, budget: int) -> tuple[IncrementalAgent, dict[str, Any]]:
    """An agent by its rule, "cues" or None (the full history) among them, and what `rollout` must be told for it."""
    if rule == "cues":
        agent = KnowingAgent(control, budget)
        return agent, {"on_start": agent.told, "lanes": 1}
    return IncrementalAgent(control) if rule is None else EvictingAgent(control, rule, budget), {}
