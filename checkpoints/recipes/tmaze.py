"""Makes checkpoints/control/tmaze: a Decision Transformer that uses its full history in the continuous T-maze.

    python checkpoints/recipes/tmaze.py

The scripted expert walks corridors of 50 to 300 steps with action noise; the model is trained on WHOLE episodes,
shortest first, so that a history of 900 tokens is in distribution. Steps at and beyond the junction weigh more in the
loss, because only they depend on the cue. The last stage measures success with the full history and with simple cuts of
the cache (newest, first + newest, random) and writes both into the card. A killed run continues when started again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float

from checkpoints.recipes.control_card import save_model, show, versions, write_card
from checkpoints.recipes.decision_transformer import DTConfig, EpisodeSampler, train
from checkpoints.recipes.evicting_agent import EvictingAgent
from evaluations.estimates import Estimate, success_rate
from evaluations.tasks.d4rl import Episode, state_statistics
from evaluations.tasks.d4rl_files import read_hdf5, write_hdf5
from evaluations.tasks.tmaze import ENV_ID, ScriptedExpert, register
from modalities.control import ControlFacts, ControlModel, IncrementalAgent
from modalities.rollout import rollout

CONFIG = DTConfig(
    context_steps=None,
    layers=3,
    heads=1,
    width=64,
    dropout=0.0,
    max_ep_len=512,
    updates=4000,
    steps_per_batch=1500,
    learning_rate=1e-3,
    warmup_updates=100,
    cosine=True,
    gradient_clip=0.5,
    return_scale=1.0,
    bf16=True,
    save_every=100,
    seed=0,
)

LENGTHS = (150, 200, 300)
"""Corridors of the evaluation, steps."""

RIVALS: tuple[tuple[str, str | None, int], ...] = (
    ("full history", None, 0),
    ("newest 30", "newest", 30),
    ("first 4 + newest 26", "sink", 30),
    ("random 12", "random", 12),
    ("random 24", "random", 24),
    ("random 48", "random", 48),
)
"""Name, rule and slots of the memories in the card."""


@dataclass(frozen=True)
class DataConfig:
    """The demonstrations."""

    episodes: int = 3000
    """Episodes of the scripted expert."""
    shortest: int = 50
    """Shortest corridor, steps."""
    longest: int = 300
    """Longest corridor, steps."""
    action_noise: float = 0.15
    """Standard deviation of the noise on the expert's actions."""
    seed: int = 0
    """Seed of mazes and noise."""


def demonstrate(config: DataConfig) -> list[Episode]:
    """Episodes of the scripted expert in corridors of random length."""
    register()
    random = np.random.default_rng(config.seed)
    expert, episodes = ScriptedExpert(), []
    for number in range(config.episodes):
        corridor = int(random.integers(config.shortest, config.longest + 1))
        env = gym.make(ENV_ID, corridor_steps=corridor, disable_env_checker=True)
        state, _ = env.reset(seed=int(random.integers(2**31)))
        expert.reset()
        states, actions, rewards, done = [], [], [], False
        while not done:
            noise = config.action_noise * random.normal(size=2)
            action = np.clip(expert.act(state) + noise, -1.0, 1.0).astype(np.float32)
            states.append(state)
            state, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            rewards.append(reward)
            done = terminated or truncated
        rewards = np.asarray(rewards, np.float32)
        episodes.append(Episode(np.stack(states), np.stack(actions), rewards, state, terminated))
        if (number + 1) % 500 == 0:
            print(f"demonstrated {number + 1} of {config.episodes} episodes", flush=True)
    return episodes


def junction_weights(episode: Episode) -> Float[np.ndarray, " steps"]:
    """10 where the junction is reached (distance 0 or less), 1 in the corridor."""
    return np.where(episode.observations[:, 0] <= 0.0, 10.0, 1.0).astype(np.float32)


def curriculum(update: int) -> int:
    """Longest episode of an update: 90 steps at first, all from update 1,200 on."""
    return 90 + int(270 * min(1.0, max(0, update - 400) / 800))


def measure(control: ControlModel, episodes: int, lengths: tuple[int, ...]) -> dict[str, list[Estimate]]:
    """Success with the full history and with each cut of the cache, one estimate a corridor length."""
    table: dict[str, list[Estimate]] = {}
    for name, rule, budget in RIVALS:
        for length in lengths:
            agent = IncrementalAgent(control) if rule is None else EvictingAgent(control, rule, budget)
            played = rollout(agent, ENV_ID, range(20_000, 20_000 + episodes), 1.0, {"corridor_steps": length})
            estimate = success_rate([bool(episode.success) for episode in played.episodes])
            table.setdefault(name, []).append(estimate)
            print(f"{name}, corridor of {length}: {show(estimate, 2)}", flush=True)
    return table


def card(facts: ControlFacts, sha256: str, table: dict[str, list[Estimate]], episodes: int) -> str:
    """The text of README.md."""
    made = facts.provenance
    training, data = made["training"], made["data"]
    rows = "\n".join(f"| {name} | " + " | ".join(show(one, 2) for one in row) + " |" for name, row in table.items())
    header = " | ".join(f"{length} steps" for length in LENGTHS)
    return f"""
# Decision Transformer, continuous T-maze, full history

A stock Hugging Face `DecisionTransformerModel` (`from_pretrained` on this folder works; the project's own
`ControlModel.load` checks it and reads `control.json`, which holds what the weights do not say).

Made by one command, `python checkpoints/recipes/tmaze.py`.

## Task and data

`ContinuousTMaze-v0` (evaluations/tasks/tmaze.py): a cue is seen on one step, at a random time between 10% and 40% of
the corridor, among distractor pulses; at the junction the cued arm must be taken. {data["episodes"]:,} episodes
({made["steps"]:,} steps) of the scripted expert, corridors of {data["shortest"]} to {data["longest"]} steps, action
noise of standard deviation {data["action_noise"]}. Until the junction the expert acts alike for both cues.

## Training

{training["layers"]} layers, {training["heads"]} head, width {training["width"]}, trained on whole episodes (histories
of up to {made["longest_tokens"]} tokens), shortest first. AdamW {training["learning_rate"]:g} with half a cosine,
{training["updates"]:,} updates of about {training["steps_per_batch"]:,} steps, bfloat16 autocast, no dropout; steps at
and beyond the junction weigh 10 in the loss. Seed {training["seed"]}; {made["training_minutes"]} minutes on one busy
core. The last state is shipped, no state was selected.

## Success

{episodes} episodes a cell, the same mazes in every row, Wilson's 95% interval; chance is 0.50. The cache is cut every
48 tokens (16 steps) to the number of slots given; random keeps the newest 3 and draws anew for every layer and
sequence. One training seed. A model that has lost the cue takes the same arm in every maze, so rows without it agree
exactly: they all show the share of these mazes that has its cue there.

| memory | {header} |
|---|{"---|" * len(LENGTHS)}
{rows}

sha256 of model.safetensors: `{sha256}`

Versions: {", ".join(f"{name} {version}" for name, version in made["versions"].items())}.
"""


def main() -> None:
    """Runs all stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for demonstrations and training state")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/control/tmaze"), help="folder of the checkpoint")
    parser.add_argument("--episodes", type=int, default=100, help="evaluation episodes for each length and memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    register()
    folder, data = arguments.data / "tmaze", DataConfig()
    if not (folder / "tmaze-expert.hdf5").is_file():
        write_hdf5(folder / "tmaze-expert.hdf5", demonstrate(data))
    episodes = read_hdf5(folder / "tmaze-expert.hdf5")
    statistics = state_statistics(episodes)
    sampler = EpisodeSampler(episodes, statistics, CONFIG, longest=curriculum, step_weights=junction_weights)
    model, seconds = train(sampler, 6, 2, CONFIG, folder / "training.safetensors")
    facts = ControlFacts(
        env_id=ENV_ID,
        state_mean=tuple(statistics.mean.tolist()),
        state_std=tuple(statistics.std.tolist()),
        context_steps=None,
        return_scale=CONFIG.return_scale,
        target_return=1.0,
        reference_scores=None,
        env_kwargs={"corridor_steps": 150},
        provenance={
            "data": asdict(data),
            "steps": sum(len(episode.rewards) for episode in episodes),
            "longest_tokens": 3 * max(len(episode.rewards) for episode in episodes) - 1,
            "training": asdict(CONFIG),
            "training_minutes": round(seconds / 60, 1),
            "versions": versions(),
        },
    )
    sha256 = save_model(arguments.out, model, facts)
    table = measure(ControlModel.load(arguments.out), arguments.episodes, LENGTHS)
    text = card(facts, sha256, table, arguments.episodes)
    write_card(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
