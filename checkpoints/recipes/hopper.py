"""Makes checkpoints/control/hopper-medium-expert: offline data in D4RL's shape, and a Decision Transformer for it.

    pip install -e '.[recipes]' && python checkpoints/recipes/hopper.py

Two behaviour policies, found by ARS on Hopper-v5, act with noise; their episodes are written together as D4RL's
medium-expert sets are, in D4RL's HDF5 schema and as a Minari dataset. The model has the reference's shape and
hyperparameters (K = 20, 3 layers, 1 head, 128 wide) but fewer updates. The last stage measures its native window. Every
stage is skipped where its output exists, and a killed run continues when started again.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from checkpoints.recipes.control_card import estimate_return, mean_length, save_model, show, versions, write_card
from checkpoints.recipes.decision_transformer import DTConfig, WindowSampler, train
from checkpoints.recipes.hopper_behaviour import ENV_ID, ARSConfig, choose_tiers, collect, train_ars
from evaluations.estimates import Estimate
from evaluations.tasks.d4rl import Episode, normalised_score, reference_scores, state_statistics
from evaluations.tasks.d4rl_files import read_hdf5, write_hdf5
from evaluations.tasks.minari_files import write_minari
from modalities.control import ControlFacts, ControlModel, IncrementalAgent, WindowAgent
from modalities.rollout import Agent, Rollout, rollout

MINARI_ID = "namm/hopper/medium-expert-v0"

TARGET_RETURN = 3600.0
"""Asked for at evaluation, above the expert tier as in the reference; the best of five tried on resets 0 to 19."""

CONFIG = DTConfig(updates=5750, warmup_updates=300, cooldown_updates=750)


@dataclass(frozen=True)
class DataConfig:
    """The offline data."""

    steps_per_tier: int = 200_000
    """Environment steps of each tier (D4RL: 1,000,000)."""
    noise: float = 0.05
    """Standard deviation of the action noise; the behaviour policies are deterministic."""
    seed: int = 10_000
    """Reset seed of the first episode."""


def make_data(folder: Path, search: ARSConfig, data: DataConfig) -> list[Episode]:
    """Medium episodes, then expert episodes; made where `folder` does not hold them yet."""
    file = folder / "hopper_medium_expert-v0.hdf5"
    if file.is_file():
        return read_hdf5(file)
    policies = folder / "policies.npz"
    if not policies.is_file():
        train_ars(policies, search)
    episodes, tiers = [], {}
    for number, (tier, policy) in enumerate(choose_tiers(policies, data.noise).items()):
        new = collect(policy, data.noise, data.seed + 100_000 * number, steps=data.steps_per_tier)
        totals = [episode.total for episode in new]
        tiers[tier] = {
            "episodes": len(new),
            "steps": sum(len(episode.rewards) for episode in new),
            "mean_return": round(float(np.mean(totals)), 1),
            "std_return": round(float(np.std(totals)), 1),
        }
        print(tier, tiers[tier], flush=True)
        episodes += new
    write_text(folder / "tiers.json", json.dumps(tiers, indent=1) + "\n")
    write_hdf5(file, episodes)
    return episodes


def write_text(path: Path, text: str) -> None:
    """Writes a small file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def evaluate(control: ControlModel, agent: Agent, seeds: tuple[int, ...], episodes: int) -> list[Rollout]:
    """One rollout a seed; the resets of seed k are numbered 1000 (k + 1), 1000 (k + 1) + 1, ..."""
    facts = control.facts
    blocks = [range(1000 * (seed + 1), 1000 * (seed + 1) + episodes) for seed in seeds]
    return [rollout(agent, facts.env_id, list(block), facts.target_return, facts.env_kwargs) for block in blocks]


def card(facts: ControlFacts, sha256: str, native: list[Rollout], full: list[Rollout]) -> str:
    """The text of README.md."""
    made, reference = facts.provenance, facts.reference_scores
    tiers = "\n".join(
        f"| {name} | {tier['episodes']} | {tier['steps']:,} | {tier['mean_return']} ± {tier['std_return']} | "
        f"{normalised_score(tier['mean_return'], reference):.1f} |"
        for name, tier in made["tiers"].items()
    )
    rows = []
    for name, rollouts in (("native window, K = 20", native), ("full history, incremental", full)):
        total = estimate_return(rollouts)
        scaled = Estimate(*(normalised_score(value, reference) for value in (total.value, total.low, total.high)))
        count = sum(len(one.episodes) for one in rollouts)
        rows.append(f"| {name} | {count} | {show(total, 0)} | {show(scaled)} | {mean_length(rollouts):.0f} |")
    scores = "\n".join(rows)
    training = made["training"]
    return f"""
# Decision Transformer, Hopper-v5, medium-expert

A stock Hugging Face `DecisionTransformerModel` (`from_pretrained` on this folder works; the project's own
`ControlModel.load` checks it and reads `control.json`, which holds what the weights do not say).

Made by one command, `python checkpoints/recipes/hopper.py` (needs the extra `recipes`).

## Data

Linear policies found by ARS (sb3-contrib, seed {made["search"]["seed"]}) on {facts.env_id}; "expert" is the best
snapshot, "medium" one near a third of its return. Both act with Gaussian action noise of standard deviation
{made["data"]["noise"]}, because they are deterministic. Written as D4RL writes its sets, medium and expert together.
It is D4RL-shaped, not D4RL: other policies, another version of the environment, a fifth of the steps. The dataset is
not shipped; the recipe makes it again.

| tier | episodes | steps | return | normalised |
|---|---|---|---|---|
{tiers}

Normalised with D4RL's reference scores, {reference[0]} (random) and {reference[1]} (expert), times 100.

## Training

Reference hyperparameters (K = 20, 3 layers, 1 head, width 128, ReLU, dropout 0.1, AdamW 1e-4, weight decay 1e-4,
gradient clip 0.25, batch 64), with these differences: {training["updates"]:,} updates instead of 100,000, warm-up over
{training["warmup_updates"]:,} of them instead of 10,000, a learning rate that falls to a tenth over the last
{training["cooldown_updates"]:,}, bfloat16 autocast in the forward pass. Seed {training["seed"]};
{made["training_minutes"]} minutes on one busy core.

## Score

Target return {facts.target_return:g}, chosen on twenty other resets 750 updates before the end, where 3100, 3300,
3600, 3900 and 4200 gave 89, 89, 91, 90 and 89. Deterministic actions, 3 seeds of resets, 95% bootstrap interval over
episodes within seeds. One training seed. What is lost is lost in falls: an episode without one scores about 94.

| context | episodes | return | normalised | mean length |
|---|---|---|---|---|
{scores}

The model was trained on windows of 20 steps. Its full history is out of distribution, and Hopper is fully observed, so
a memory that forgets may "improve" on the full history here without having remembered anything.

sha256 of model.safetensors: `{sha256}`

Versions: {", ".join(f"{name} {version}" for name, version in made["versions"].items())}.
"""


def main() -> None:
    """Runs all stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for datasets and training state")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/control/hopper-medium-expert"))
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes for each of 3 seeds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.data / "hopper"
    folder.mkdir(parents=True, exist_ok=True)
    search, data = ARSConfig(), DataConfig()
    episodes = make_data(folder, search, data)
    reference = reference_scores("hopper-medium-expert")
    os.environ["MINARI_DATASETS_PATH"] = str((arguments.data / "minari").absolute())
    if not (arguments.data / "minari" / MINARI_ID).is_dir():
        write_minari(
            MINARI_ID, episodes, ENV_ID, reference, "ARS policies at two levels, mixed as D4RL's medium-expert."
        )

    statistics = state_statistics(episodes)
    sampler = WindowSampler(episodes, statistics, CONFIG)
    model, seconds = train(sampler, 11, 3, CONFIG, folder / "training.safetensors")
    facts = ControlFacts(
        env_id=ENV_ID,
        state_mean=tuple(statistics.mean.tolist()),
        state_std=tuple(statistics.std.tolist()),
        context_steps=CONFIG.context_steps,
        return_scale=CONFIG.return_scale,
        target_return=TARGET_RETURN,
        reference_scores=reference,
        provenance={
            "tiers": json.loads((folder / "tiers.json").read_text("utf-8")),
            "search": asdict(search),
            "data": asdict(data),
            "training": asdict(CONFIG),
            "training_minutes": round(seconds / 60, 1),
            "versions": versions(),
        },
    )
    sha256 = save_model(arguments.out, model, facts)
    control = ControlModel.load(arguments.out)
    native = evaluate(control, WindowAgent(control), (0, 1, 2), arguments.episodes)
    full = evaluate(control, IncrementalAgent(control), (0, 1, 2), arguments.episodes)
    text = card(facts, sha256, native, full)
    write_card(arguments.out, text)
    print(text)


if __name__ == "__main__":
    main()
