"""The card of a locomotion checkpoint: where its data came from, how it was trained, what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.recipes.control_card import estimate_return, mean_length, show
from evaluations.analysis.estimates import Estimate
from evaluations.tasks.control.comparability import comparability
from evaluations.tasks.control.d4rl import normalised_score
from modalities.control.agents import ControlFacts
from modalities.control.rollout import Rollout

SEARCH_NAMES = {
    "ARS": "augmented random search (ARS V2, sb3-contrib), which finds linear policies",
    "PPO": "proximal policy optimisation (PPO, stable-baselines3), whose actor has two hidden layers of 64",
}

SETS = {
    "medium": "episodes of the medium policy",
    "medium-replay": "every complete episode of the search until the medium snapshot, exploration included",
    "medium-expert": "the medium and the expert tier, joined",
}


def card(cell: str, facts: ControlFacts, sha256: str, native: Sequence[Rollout]) -> str:
    """The text of README.md."""
    robot, _, quality = cell.partition("-")
    made, reference = facts.provenance, facts.reference_scores
    search, data, training = made["search"], made["data"], made["training"]
    tiers = "\n".join(_tier(name, tier, reference) for name, tier in made["tiers"].items())
    return f"""
# Decision Transformer, {facts.env_id}, {quality}

A stock Hugging Face `DecisionTransformerModel` (`from_pretrained` on this folder works; the project's own
`ControlModel.load` checks it and reads `control.json`, which holds what the weights do not say).

Made by one command, `python checkpoints/recipes/locomotion.py {cell}` (needs the extra `recipes`).

## Data

This set: {SETS[quality]}; {made["dataset"]["episodes"]:,} episodes, {made["dataset"]["steps"]:,} steps.
Behaviour policies come from {SEARCH_NAMES[search["algorithm"]]}:
{search["total_steps"]:,} steps at most on {facts.env_id}, seed {search["seed"]}. "Expert" is the best snapshot,
"medium" one near a third of its return (after {made["tiers"]["medium"]["search_steps"]:,} steps of the search). Both
act by their mean with Gaussian noise of standard deviation {data["noise"]}.
It is D4RL-shaped, not D4RL: other policies, another version of the environment, fewer steps. The dataset is
not shipped; the recipe makes it again, as HDF5 in D4RL's schema (`namm-data to-minari` makes a Minari set of it).

| tier | episodes | steps | return | normalised |
|---|---|---|---|---|
{tiers}

Normalised with D4RL's reference scores, {reference[0]} (random) and {reference[1]} (expert), times 100. They are
{comparability(facts.env_id).sentence}.
{_shortfall(robot, made["tiers"], reference)}

## Training

Reference hyperparameters (K = 20, 3 layers, 1 head, width 128, ReLU, AdamW, weight decay 1e-4, gradient clip 0.25,
batch 64), with these differences: {training["updates"]:,} updates instead of 100,000, which see so little of the data
that dropout is {training["dropout"]:g} instead of 0.1; a learning rate of {training["learning_rate"]:g} after
{training["warmup_updates"]:,} updates of warm-up, then half a cosine to a tenth, instead of a constant 1e-4; bfloat16
autocast in the forward pass. Seed {training["seed"]}; {made["training_minutes"]} minutes on a core shared with other
work. The last state is shipped, no state was selected.

## Score

Target return {facts.target_return:g}, the best episode of this set (a rule, not a choice by score). Deterministic
actions, 3 seeds of resets, 95% bootstrap interval over episodes within seeds. One training seed.

| context | episodes | return | normalised | mean length |
|---|---|---|---|---|
{_score(native, reference)}

`python evaluations/rl.py --env {cell}` measures it with its full history and with memories. The model was trained on
windows of 20 steps: its full history is out of distribution, and the robot is fully observed, so a memory that forgets
may "improve" on the full history here without having remembered anything.

sha256 of model.safetensors: `{sha256}`

Versions: {", ".join(f"{name} {version}" for name, version in made["versions"].items())}.
"""


def _tier(name: str, tier: Mapping[str, Any], reference: tuple[float, float]) -> str:
    normalised = normalised_score(tier["mean_return"], reference)
    returns = f"{tier['mean_return']} ± {tier['std_return']}"
    return f"| {name} | {tier['episodes']:,} | {tier['steps']:,} | {returns} | {normalised:.1f} |"


def _shortfall(robot: str, tiers: Mapping[str, Any], reference: tuple[float, float]) -> str:
    """What a reader who knows D4RL must be told about an expert that is none."""
    reached = normalised_score(tiers["expert"]["mean_return"], reference)
    if reached >= 90:
        return ""
    return (
        f'\n**"Expert" is not D4RL\'s expert here**: this search reached {reached:.0f} of 100 on {robot}. '
        'Read "expert" and "medium" as relative to this search.\n'
    )


def _score(rollouts: Sequence[Rollout], reference: tuple[float, float]) -> str:
    total = estimate_return(rollouts)
    scaled = Estimate(*(normalised_score(value, reference) for value in (total.value, total.low, total.high)))
    count = sum(len(one.episodes) for one in rollouts)
    return f"| native window, K = 20 | {count} | {show(total, 0)} | {show(scaled)} | {mean_length(rollouts):.0f} |"
