"""How a memory task becomes a checkpoint: demonstrations, training on whole episodes, measurement, card.

A task's own recipe (tmaze.py, remembered_reacher.py, popgym_recall.py) says what differs. The last stage plays the
episodes again with the cache cut by simple rules (newest, first + newest, random) at several sizes: a task belongs into
the memory suite only if the full history does well and the newest tokens alone do no better than chance. Every stage
is kept on disk, so a killed run continues when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float

from checkpoints.recipes.control_card import save_model, show, write_card
from checkpoints.recipes.decision_transformer import DTConfig, EpisodeSampler, StepWeights, train
from checkpoints.recipes.evicting_agent import SINKS, agent_of
from checkpoints.recipes.memory_demonstrations import Demonstrations, demonstrate
from evaluations.analysis.estimates import Estimate, bootstrap, success_rate
from evaluations.rows.provenance import made_with
from evaluations.tasks import register_all
from evaluations.tasks.control.d4rl import state_statistics
from evaluations.tasks.control.d4rl_files import read_hdf5, write_hdf5
from modalities.control.agents import ControlFacts, ControlModel, StateStatistics
from modalities.control.rollout import Rollout, rollout
from namm.files import file_sha256

EVALUATION_SEEDS = 7_000_000
"""First reset seed of the card's episodes: no choice is made on these, and no suite plays them."""
TIMED_EPISODES = 200
"""Episodes of the expert that the memory length is measured on."""
TOKENS_PER_STEP = 3

MemorySteps = Callable[[Float[np.ndarray, "steps state"], Mapping[str, Any]], list[int]]
"""Steps from each cue of an episode to its use, from the states and an info of the episode."""


def steps_until_asked(states: Float[np.ndarray, "steps state"], info: Mapping[str, Any]) -> list[int]:
    """For tasks that know from the start when they will ask."""
    return [asked - shown for shown, asked in zip(info["cue_steps"], info["asked_steps"], strict=True)]


WHOLE_EPISODES = DTConfig(
    context_steps=None, width=64, dropout=0.0, steps_per_batch=1500, learning_rate=1e-3, warmup_updates=100,
    cosine=True, gradient_clip=0.5, return_scale=1.0, save_every=100,
)  # fmt: skip
"""What the models of all memory tasks have in common: small, and trained on whole episodes."""


@dataclass(frozen=True)
class MemoryRecipe:
    """What one task says about its checkpoint."""

    folder: str
    """Folder in checkpoints/control."""
    title: str
    """Name of the task in the card."""
    command: str
    """Command that makes it."""
    task: str
    """The task in a few sentences, for the card."""
    demonstrations: Demonstrations
    """How the training episodes are made."""
    disturbance: str
    """How the expert's actions are disturbed, for the card."""
    config: DTConfig
    """Shape and training of the model."""
    step_weights: StepWeights
    """Weight of each step in the loss."""
    weighting: str
    """The same in words."""
    settings: Mapping[str, dict[str, Any]]
    """Name and environment arguments of each column of the card; the first is the checkpoint's own."""
    chance: float
    """Score without memory."""
    chance_words: str
    """Why that is chance."""
    memory_steps: MemorySteps = steps_until_asked
    """How long each cue of an episode must be held."""
    answers: bool = False
    """The score is the share of right answers, (return + 1) / 2, and not the share of successful episodes."""
    longest: Callable[[int], int] | None = None
    """Longest episode that may be drawn at an update."""
    prepare: Callable[[torch.nn.Module], None] | None = None
    """Changes the fresh model before training."""
    start: Path | None = None
    """Checkpoint whose weights and state statistics training starts from."""
    start_words: str = ""
    """What the card says about the start."""
    budgets: tuple[int, ...] = (30, 120)
    """Slots that the simple rules keep."""
    reference_scores: tuple[float, float] | None = None
    """Returns that count as 0 and 100."""
    knowing: tuple[int, ...] = ()
    """Slots in which a row keeps the cues' states and the newest tokens, to show that a size is enough."""
    remarks: str = ""
    """What else the card says about the scores."""


def train_model(recipe: MemoryRecipe, data: Path, out: Path) -> None:
    """Demonstrates, trains and saves the checkpoint.

    Args:
        recipe: The task.
        data: Folder for demonstrations and training state.
        out: Folder of the checkpoint.
    """
    folder = data / recipe.folder
    if not (folder / "expert.hdf5").is_file():
        write_hdf5(folder / "expert.hdf5", demonstrate(recipe.demonstrations))
    shown = read_hdf5(folder / "expert.hdf5")
    statistics, prepare = state_statistics(shown), recipe.prepare
    if recipe.start is not None:
        source = ControlModel.load(recipe.start)
        statistics = StateStatistics(np.asarray(source.facts.state_mean), np.asarray(source.facts.state_std))
        weights = source.model.state_dict()

        def prepare(model: torch.nn.Module) -> None:
            model.load_state_dict(weights)

    sampler = EpisodeSampler(shown, statistics, recipe.config, recipe.longest, recipe.step_weights)
    state_dim, action_dim = shown[0].observations.shape[1], shown[0].actions.shape[1]
    training_state = folder / "training.safetensors"
    model, seconds = train(sampler, state_dim, action_dim, recipe.config, training_state, prepare=prepare)
    facts = ControlFacts(
        env_id=recipe.demonstrations.env_id,
        state_mean=tuple(statistics.mean.tolist()),
        state_std=tuple(statistics.std.tolist()),
        context_steps=None,
        return_scale=recipe.config.return_scale,
        target_return=1.0,
        reference_scores=recipe.reference_scores,
        env_kwargs=next(iter(recipe.settings.values())),
        provenance={
            "data": {
                "episodes": len(shown),
                "steps": sum(len(episode.rewards) for episode in shown),
                "longest_tokens": TOKENS_PER_STEP * max(len(episode.rewards) for episode in shown) - 1,
                "seed": recipe.demonstrations.seed,
                "made": recipe.disturbance,
            },
            "training": asdict(recipe.config),
            "training_minutes": round(seconds / 60, 1),
            "versions": made_with("control"),
        },
    )
    save_model(out, model, facts)


def measure_model(recipe: MemoryRecipe, out: Path, episodes: int) -> None:
    """Measures a checkpoint and writes its card.

    Args:
        recipe: The task.
        out: Folder of the checkpoint.
        episodes: Evaluation episodes for each memory and setting.
    """
    control = ControlModel.load(out)
    sha256 = file_sha256(out / "model.safetensors")
    lengths = {name: memory_length(recipe, kwargs) for name, kwargs in recipe.settings.items()}
    text = card(recipe, control.facts, sha256, lengths, measure(recipe, control, episodes), episodes)
    write_card(out, text)
    print(text)


def run(recipe: MemoryRecipe, description: str | None) -> None:
    """The command line of a recipe."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    out = Path("checkpoints/control") / recipe.folder
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for demonstrations and training state")
    parser.add_argument("--out", type=Path, default=out, help="folder of the checkpoint")
    parser.add_argument("--episodes", type=int, default=100, help="evaluation episodes for each memory and setting")
    parser.add_argument("--card", action="store_true", help="only measure the checkpoint that is there again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    register_all()
    if not arguments.card:
        train_model(recipe, arguments.data, arguments.out)
    measure_model(recipe, arguments.out, arguments.episodes)


def rivals(budgets: tuple[int, ...], knowing: tuple[int, ...]) -> list[tuple[str, str | None, int]]:
    """Name, rule and slots of the memories in a card."""
    found: list[tuple[str, str | None, int]] = [("full history", None, 0)]
    for budget in budgets:
        found.append((f"newest {budget}", "newest", budget))
        found.append((f"first {SINKS} + newest {budget - SINKS}", "sink", budget))
        found.append((f"random {budget}", "random", budget))
    return found + [(f"cues + newest, {budget} in all", "cues", budget) for budget in knowing]


def score(recipe: MemoryRecipe, played: Rollout) -> Estimate:
    """Share of successful episodes, or of right answers, with its interval."""
    if recipe.answers:
        return bootstrap([[(episode.total + 1.0) / 2.0 for episode in played.episodes]], seed=0)
    return success_rate([bool(episode.success) for episode in played.episodes])


def measure(recipe: MemoryRecipe, control: ControlModel, episodes: int) -> dict[str, list[Estimate]]:
    """Score with the full history and with each cut of the cache, one estimate a setting."""
    table: dict[str, list[Estimate]] = {}
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + episodes)
    for name, rule, budget in rivals(recipe.budgets, recipe.knowing):
        for setting, kwargs in recipe.settings.items():
            agent, told = agent_of(control, rule, budget)
            played = rollout(agent, control.facts.env_id, seeds, control.facts.target_return, kwargs, **told)
            estimate = score(recipe, played)
            table.setdefault(name, []).append(estimate)
            print(f"{name}, {setting}: {show(estimate, 2)}", flush=True)
    return table


def memory_length(recipe: MemoryRecipe, env_kwargs: dict[str, Any]) -> tuple[int, float, int]:
    """Fewest, mean and most steps between a cue and its use, over episodes of the undisturbed expert."""
    env = gym.make(recipe.demonstrations.env_id, disable_env_checker=True, **env_kwargs)
    steps: list[int] = []
    for seed in range(EVALUATION_SEEDS, EVALUATION_SEEDS + TIMED_EPISODES):
        state, info = env.reset(seed=seed)
        expert = recipe.demonstrations.make_expert(env_kwargs)
        states, done = [state], False
        while not done:
            state, _, terminated, truncated, info = env.step(expert.act(state))
            states.append(state)
            done = terminated or truncated
        steps += recipe.memory_steps(np.stack(states), info)
    env.close()
    return min(steps), float(np.mean(steps)), max(steps)


def _times(lengths: Mapping[str, tuple[int, float, int]]) -> str:
    """Lines of the table of memory lengths: fewest, mean and most steps, and tokens."""
    return "\n".join(
        f"| {name} | {low} / {mean:.0f} / {high} | {3 * low} / {3 * mean:.0f} / {3 * high} |"
        for name, (low, mean, high) in lengths.items()
    )


def card(
    recipe: MemoryRecipe,
    facts: ControlFacts,
    sha256: str,
    lengths: Mapping[str, tuple[int, float, int]],
    table: Mapping[str, list[Estimate]],
    episodes: int,
) -> str:
    """The text of README.md."""
    made = facts.provenance
    training, data = made["training"], made["data"]
    columns = list(recipe.settings)
    rows = "\n".join(f"| {name} | " + " | ".join(show(one, 2) for one in row) + " |" for name, row in table.items())
    times = _times(lengths)
    interval = "the bootstrap's" if recipe.answers else "Wilson's"
    what = "Share of right answers" if recipe.answers else "Success"
    updates, stopped = f"{training['updates']:,} updates", training.get("stop_after")
    updates = updates if stopped is None else f"the first {stopped:,} of {updates}"
    precision = "bfloat16 autocast" if training["bf16"] else "float32"
    order = ", shortest first" if recipe.longest is not None else ""
    return f"""
# Decision Transformer, {recipe.title}, full history

A stock Hugging Face `DecisionTransformerModel` (`from_pretrained` on this folder works; the project's own
`ControlModel.load` checks it and reads `control.json`, which holds what the weights do not say).

Made by one command, `{recipe.command}`.

## Task and data

{recipe.task}

{data["episodes"]:,} episodes ({data["steps"]:,} steps) of the scripted expert, {recipe.disturbance}.

Memory length, from a cue to its use (fewest / mean / most over {TIMED_EPISODES} episodes of the undisturbed expert; a
step is {TOKENS_PER_STEP} tokens):

| setting | steps | tokens |
|---|---|---|
{times}

## Training

{training["layers"]} layers, {training["heads"]} head, width {training["width"]}, trained on whole episodes (histories
of up to {data["longest_tokens"]} tokens){order}. AdamW {training["learning_rate"]:g} with half a cosine,
{updates} of about {training["steps_per_batch"]:,} steps, {precision}, no dropout;
{recipe.weighting}. {recipe.start_words + " " if recipe.start_words else ""}Seed {training["seed"]};
{made["training_minutes"]} minutes on one busy core. The last state is shipped, no state was selected.

## {what}

{episodes} episodes a cell, the same reset seeds in every row, {interval} 95% interval; chance is {recipe.chance:g}
({recipe.chance_words}). The cache is cut every 48 tokens (16 steps) to the number of slots given; random keeps the
newest 3 and draws anew for every layer and sequence. One training seed.{" " + recipe.remarks if recipe.remarks else ""}

| memory | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
{rows}

sha256 of model.safetensors: `{sha256}`

Versions: {", ".join(f"{name} {version}" for name, version in made["versions"].items())}.
"""
