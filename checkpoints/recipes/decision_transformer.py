"""Trains Hugging Face Decision Transformers on offline episodes; shared by the control recipes.

Two ways to cut episodes: windows of K steps as the reference trains (kzl/decision-transformer, `gym/experiment.py`),
and whole episodes, for a model that shall use its full history. Every update draws its batch and its dropout from
(seed, update) alone, and weights and optimiser moments are saved as safetensors, so a killed run that is started again
ends with the numbers of a run that was never killed.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluations.tasks.control.d4rl import Episode
from modalities.control.agents import StateStatistics, import_transformers


@dataclass(frozen=True)
class DTConfig:
    """Shape and training of a Decision Transformer; the defaults are the reference's, but for the number of updates."""

    context_steps: int | None = 20
    """Steps of a training window; None trains on whole episodes."""
    layers: int = 3
    """Transformer blocks."""
    heads: int = 1
    """Attention heads."""
    width: int = 128
    """Hidden size; the MLP is four times as wide."""
    dropout: float = 0.1
    """Dropout of embeddings, attention and residual branches."""
    max_ep_len: int = 1000
    """Rows of the timestep table: the longest episode that the model can see."""
    updates: int = 5000
    """Gradient steps (the reference makes 100,000)."""
    stop_after: int | None = None
    """Gradient steps after which training ends, before the schedule of `updates` does; None goes on to its end."""
    batch: int = 64
    """Windows a batch."""
    steps_per_batch: int = 4096
    """Environment steps a batch when training on whole episodes."""
    learning_rate: float = 1e-4
    """AdamW's peak learning rate."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""
    warmup_updates: int = 500
    """Linear warm-up (the reference: 10,000 of 100,000)."""
    cosine: bool = False
    """Decay the learning rate to a tenth along half a cosine after the warm-up (the reference keeps it constant)."""
    cooldown_updates: int = 0
    """Last updates, over which a constant learning rate falls linearly to a tenth (the reference has none)."""
    gradient_clip: float = 0.25
    """Largest norm of the gradient."""
    return_scale: float = 1000.0
    """Returns-to-go are divided by this."""
    bf16: bool = True
    """Matrix products of the forward pass in bfloat16 (autocast); weights and optimiser stay in float32."""
    save_every: int = 250
    """Updates between two saved states."""
    seed: int = 0
    """Seed of the initial weights, of batches and of dropout."""


@dataclass(frozen=True)
class Batch:
    """One training batch. Padded steps have weight 0; `mask` is what attention may see."""

    states: Float[Tensor, "batch steps state"]
    actions: Float[Tensor, "batch steps action"]
    returns_to_go: Float[Tensor, "batch steps 1"]
    timesteps: Int[Tensor, "batch steps"]
    mask: Int[Tensor, "batch steps"]
    weights: Float[Tensor, "batch steps"]


StepWeights = Callable[[Episode], Float[np.ndarray, " steps"]]
"""Weight of each step of an episode in the loss."""


class WindowSampler:
    """Windows of K steps, left padded: episodes are drawn in proportion to their length, starts uniformly."""

    def __init__(self, episodes: list[Episode], statistics: StateStatistics, config: DTConfig) -> None:
        self.episodes, self.statistics, self.config = episodes, statistics, config
        lengths = np.array([len(episode.rewards) for episode in episodes], dtype=np.float64)
        self.probability = lengths / lengths.sum()
        self.returns_to_go = [episode.returns_to_go() for episode in episodes]

    def __call__(self, random: np.random.Generator, update: int) -> Batch:
        """The batch of one update."""
        steps, rows = self.config.context_steps, []
        for index in random.choice(len(self.episodes), size=self.config.batch, p=self.probability):
            episode = self.episodes[index]
            start = int(random.integers(0, len(episode.rewards)))
            rows.append((episode, self.returns_to_go[index], slice(start, min(start + steps, len(episode.rewards)))))
        return assemble(rows, steps, self.statistics, self.config.return_scale, pad_left=True)


class EpisodeSampler:
    """Whole episodes of nearly equal length, right padded, as many as `steps_per_batch` holds.

    Args:
        longest: Longest episode that may be drawn at an update (a curriculum over length); None draws all.
        step_weights: Weight of each step of an episode in the loss; None weighs all alike.
    """

    def __init__(
        self,
        episodes: list[Episode],
        statistics: StateStatistics,
        config: DTConfig,
        longest: Callable[[int], int] | None = None,
        step_weights: StepWeights | None = None,
    ) -> None:
        self.episodes = sorted(episodes, key=lambda episode: len(episode.rewards))
        self.lengths = np.array([len(episode.rewards) for episode in self.episodes])
        self.returns_to_go = [episode.returns_to_go() for episode in self.episodes]
        self.statistics, self.config, self.longest, self.step_weights = statistics, config, longest, step_weights

    def __call__(self, random: np.random.Generator, update: int) -> Batch:
        """The batch of one update."""
        allowed = len(self.lengths)
        if self.longest is not None:
            allowed = int(np.searchsorted(self.lengths, self.longest(update), side="right"))
        last = int(random.integers(0, allowed))
        size = max(1, min(self.config.steps_per_batch // int(self.lengths[last]), last + 1))
        chosen = range(last - size + 1, last + 1)
        rows = [(self.episodes[i], self.returns_to_go[i], slice(0, int(self.lengths[i]))) for i in chosen]
        steps = int(self.lengths[last])
        return assemble(rows, steps, self.statistics, self.config.return_scale, False, self.step_weights)


def assemble(
    rows: list[tuple[Episode, Float[np.ndarray, " steps"], slice]],
    steps: int,
    statistics: StateStatistics,
    return_scale: float,
    pad_left: bool,
    step_weights: StepWeights | None = None,
) -> Batch:
    """Stacks stretches of episodes into a padded batch (padding as the reference's: state and return 0, action -10)."""
    state_dim, action_dim = rows[0][0].observations.shape[1], rows[0][0].actions.shape[1]
    states = np.zeros((len(rows), steps, state_dim), np.float32)
    actions = np.full((len(rows), steps, action_dim), -10.0, np.float32)
    returns_to_go = np.zeros((len(rows), steps, 1), np.float32)
    timesteps, mask = np.zeros((len(rows), steps), np.int64), np.zeros((len(rows), steps), np.int64)
    weights = np.zeros((len(rows), steps), np.float32)
    for row, (episode, to_go, part) in enumerate(rows):
        length = part.stop - part.start
        here = slice(steps - length, steps) if pad_left else slice(0, length)
        states[row, here] = statistics.normalise(episode.observations[part])
        actions[row, here] = episode.actions[part]
        returns_to_go[row, here, 0] = to_go[part] / return_scale
        timesteps[row, here] = np.arange(part.start, part.stop)
        mask[row, here] = 1
        weights[row, here] = 1.0 if step_weights is None else step_weights(episode)[part]
    if not pad_left:
        mask[:] = 1  # padding comes after every real step, so the causal mask hides it; a plain mask is the fast path
    return Batch(*(torch.from_numpy(a) for a in (states, actions, returns_to_go, timesteps, mask, weights)))


def build_model(state_dim: int, action_dim: int, config: DTConfig) -> torch.nn.Module:
    """A freshly initialised stock `DecisionTransformerModel`."""
    transformers = import_transformers()
    torch.manual_seed(config.seed)
    return transformers.DecisionTransformerModel(
        transformers.DecisionTransformerConfig(
            state_dim=state_dim,
            act_dim=action_dim,
            hidden_size=config.width,
            max_ep_len=config.max_ep_len,
            n_layer=config.layers,
            n_head=config.heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def action_loss(model: torch.nn.Module, batch: Batch, bf16: bool) -> Float[Tensor, ""]:
    """Weighted mean squared error of the predicted actions."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        predicted = model(
            states=batch.states,
            actions=batch.actions,
            returns_to_go=batch.returns_to_go,
            timesteps=batch.timesteps,
            attention_mask=batch.mask,
        ).action_preds
    error = (predicted.float() - batch.actions).square().mean(-1)
    return (error * batch.weights).sum() / batch.weights.sum()


def learning_rate(config: DTConfig, update: int) -> float:
    """The learning rate of one update: linear warm-up, then constant or half a cosine down to a tenth."""
    if update < config.warmup_updates:
        return config.learning_rate * (update + 1) / config.warmup_updates
    if not config.cosine:
        left = (config.updates - update) / max(1, config.cooldown_updates)
        return config.learning_rate * (0.1 + 0.9 * min(1.0, left))
    done = (update - config.warmup_updates) / max(1, config.updates - config.warmup_updates)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    sampler: Callable[[np.random.Generator, int], Batch],
    state_dim: int,
    action_dim: int,
    config: DTConfig,
    state_file: Path,
    on_save: Callable[[torch.nn.Module, int], None] | None = None,
    prepare: Callable[[torch.nn.Module], None] | None = None,
) -> tuple[torch.nn.Module, float]:
    """Trains, or continues, a Decision Transformer.

    Args:
        sampler: Gives the batch of an update.
        state_dim: Width of a state.
        action_dim: Width of an action.
        config: Shape and training.
        state_file: Safetensors file that the training state is saved to and resumed from.
        on_save: Called with the model (in eval mode) and the number of updates done whenever the state is saved.
        prepare: Changes the freshly initialised model in place before the first update.

    Returns:
        The trained model in eval mode, and the seconds spent training, summed over all starts.
    """
    model = build_model(state_dim, action_dim, config)
    if prepare is not None:
        prepare(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    done, seconds = resume(model, optimiser, config, state_file)
    model.train()
    running, last = None, min(config.updates, config.stop_after or config.updates)
    while done < last:
        started = time.monotonic()
        batch = sampler(np.random.default_rng([config.seed, done]), done)
        torch.manual_seed(config.seed * 1_000_003 + done)  # dropout has no generator argument
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, done)
        loss = action_loss(model, batch, config.bf16)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimiser.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done, seconds = done + 1, seconds + time.monotonic() - started
        if done % config.save_every == 0 or done == last:
            save_state(model, optimiser, config, state_file, done, seconds)
            print(f"update {done:>6} of {last} loss {running:.4f} after {seconds:.0f} s", flush=True)
            if on_save is not None:
                model.eval()
                on_save(model, done)
                model.train()
    return model.eval(), seconds


def save_state(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    config: DTConfig,
    path: Path,
    done: int,
    seconds: float,
) -> None:
    """Writes weights, moments and progress to one safetensors file, atomically."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, parameter in enumerate(model.parameters()):
        for name, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{index}.{name}"] = value.contiguous()
    meta = {"config": json.dumps(asdict(config), sort_keys=True), "done": str(done), "seconds": str(seconds)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.clone() for name, value in tensors.items()}, temporary, metadata=meta)
    os.replace(temporary, path)


def resume(model: torch.nn.Module, optimiser: torch.optim.Optimizer, config: DTConfig, path: Path) -> tuple[int, float]:
    """Loads what `save_state` wrote; (0, 0.0) where there is nothing, or it belongs to another configuration."""
    if not path.is_file():
        return 0, 0.0
    with safe_open(path, framework="pt") as file:
        meta: dict[str, Any] = file.metadata()
    if meta["config"] != json.dumps(asdict(config), sort_keys=True):
        print(f"{path} belongs to another configuration; starting afresh", flush=True)
        return 0, 0.0
    tensors = load_file(path)
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for index, parameter in enumerate(model.parameters()):
        names = [key.split(".", 2)[2] for key in tensors if key.startswith(f"optimiser.{index}.")]
        if names:
            optimiser.state[parameter] = {name: tensors[f"optimiser.{index}.{name}"] for name in names}
    return int(meta["done"]), float(meta["seconds"])
