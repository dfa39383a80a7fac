"""Makes the nine locomotion checkpoints: offline data in D4RL's shape, and a Decision Transformer for each set.

    pip install -e '.[recipes]' && python checkpoints/recipes/locomotion.py                  all nine
    pip install -e '.[recipes]' && python checkpoints/recipes/locomotion.py hopper-medium    one

A search (ARS or PPO) on the robot's Gymnasium environment leaves snapshots; "expert" is the best, "medium" one near a
third of its return. Both act with noise and give the sets `medium` and, joined, `medium-expert`; the episodes of the
search itself up to the medium snapshot are `medium-replay`. All models have the reference's shape (K = 20, 3 layers, 1
head, 128 wide) and one recipe. Every stage is skipped where its output exists, and a killed run continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from checkpoints.recipes.behaviour import choose_tiers, collect, load_snapshots
from checkpoints.recipes.behaviour_search import ARSConfig, PPOConfig, search
from checkpoints.recipes.control_card import save_model, write_card
from checkpoints.recipes.decision_transformer import DTConfig, WindowSampler, train
from checkpoints.recipes.locomotion_card import card
from evaluations.rows.provenance import made_with
from evaluations.tasks.control.d4rl import Episode, reference_scores, state_statistics
from evaluations.tasks.control.d4rl_files import read_hdf5, write_hdf5
from modalities.control.agents import ControlFacts, ControlModel, WindowAgent
from modalities.control.rollout import Rollout, rollout
from namm.files import write_atomically

SEARCHES: dict[str, ARSConfig | PPOConfig] = {
    "hopper": ARSConfig("Hopper-v5", 1_850_000, alive_bonus_offset=-1.0, enough=3300.0),
    "halfcheetah": ARSConfig(
        "HalfCheetah-v5",
        8_000_000,
        snapshot_steps=100_000,
        enough=4900.0,
        directions=32,
        top_directions=4,
        step_size=0.02,
        exploration_std=0.03,
    ),
    "walker2d": PPOConfig("Walker2d-v5", 2_500_000, enough=5300.0, early_snapshot_steps=10_000, early_steps=280_000),
}
"""How each robot's behaviour policies are found."""

QUALITIES = ("medium", "medium-replay", "medium-expert")
CELLS = tuple(f"{robot}-{quality}" for robot in SEARCHES for quality in QUALITIES)

CONFIG = DTConfig(dropout=0.0, updates=3000, learning_rate=5e-4, warmup_updates=150, cosine=True)
"""The same for all cells."""

SEEDS = (0, 1, 2)
"""Blocks of evaluation resets; the resets of seed k are numbered 1000 (k + 1), 1000 (k + 1) + 1, ..."""


@dataclass(frozen=True)
class DataConfig:
    """The offline data."""

    steps_per_tier: int = 200_000
    """Environment steps of the medium and of the expert tier (D4RL: 1,000,000)."""
    noise: float = 0.05
    """Standard deviation of the action noise; the behaviour policies are deterministic."""
    seed: int = 10_000
    """Reset seed of the first episode."""


def make_tiers(robot: str, folder: Path, config: ARSConfig | PPOConfig, data: DataConfig) -> None:
    """Searches, chooses tiers and writes medium.hdf5, expert.hdf5, medium_replay.hdf5 and tiers.json."""
    if (folder / "tiers.json").is_file():
        return
    snapshots_file, search_file = folder / "snapshots.npz", folder / "search.hdf5"
    if not snapshots_file.is_file():
        search(config, snapshots_file, search_file)
    tiers = choose_tiers(load_snapshots(snapshots_file), config.env_id, data.noise)
    sets = {
        name: collect(
            tier.snapshot.policy, config.env_id, data.noise, data.seed + 100_000 * number, steps=data.steps_per_tier
        )
        for number, (name, tier) in enumerate(tiers.items())
    }
    sets["medium-replay"] = first_steps(read_hdf5(search_file), tiers["medium"].snapshot.steps)
    for name, episodes in sets.items():
        write_hdf5(folder / f"{name.replace('-', '_')}.hdf5", episodes)
        print(robot, name, describe(episodes), flush=True)
    about = {
        name: {
            **describe(episodes),
            **({"search_steps": tiers[name].snapshot.steps} if name in tiers else {}),
        }
        for name, episodes in sets.items()
    }
    write_atomically(folder / "tiers.json", json.dumps(about, indent=1) + "\n")


def first_steps(episodes: list[Episode], steps: int) -> list[Episode]:
    """The episodes that were complete when a search had made so many steps."""
    ends = np.cumsum([len(episode.rewards) for episode in episodes])
    return episodes[: int(np.searchsorted(ends, steps, side="right"))]


def describe(episodes: list[Episode]) -> dict[str, float]:
    """Size and returns of a set, for cards."""
    totals = np.array([episode.total for episode in episodes])
    return {
        "episodes": len(episodes),
        "steps": int(sum(len(episode.rewards) for episode in episodes)),
        "mean_return": round(float(totals.mean()), 1),
        "std_return": round(float(totals.std()), 1),
        "best_return": round(float(totals.max()), 1),
    }


def load_set(folder: Path, quality: str) -> list[Episode]:
    """The episodes of one of `QUALITIES`."""
    parts = {"medium": ["medium"], "medium-replay": ["medium_replay"], "medium-expert": ["medium", "expert"]}[quality]
    return [episode for part in parts for episode in read_hdf5(folder / f"{part}.hdf5")]


def evaluate(control: ControlModel, episodes: int) -> list[Rollout]:
    """The native window, one rollout a block of resets."""
    facts, agent = control.facts, WindowAgent(control)
    blocks = [range(1000 * (seed + 1), 1000 * (seed + 1) + episodes) for seed in SEEDS]
    return [rollout(agent, facts.env_id, list(block), facts.target_return, facts.env_kwargs) for block in blocks]


def make_cell(cell: str, data_folder: Path, out: Path, episodes: int, data: DataConfig) -> None:
    """All stages of one checkpoint."""
    robot, _, quality = cell.partition("-")
    config, folder = SEARCHES[robot], data_folder / robot
    make_tiers(robot, folder, config, data)
    tiers = json.loads((folder / "tiers.json").read_text("utf-8"))
    dataset = load_set(folder, quality)
    statistics, about = state_statistics(dataset), describe(dataset)
    sampler = WindowSampler(dataset, statistics, CONFIG)
    state_dim, action_dim = dataset[0].observations.shape[1], dataset[0].actions.shape[1]
    model, seconds = train(sampler, state_dim, action_dim, CONFIG, folder / f"training-{quality}.safetensors")
    facts = ControlFacts(
        env_id=config.env_id,
        state_mean=tuple(statistics.mean.tolist()),
        state_std=tuple(statistics.std.tolist()),
        context_steps=CONFIG.context_steps,
        return_scale=CONFIG.return_scale,
        target_return=about["best_return"],
        reference_scores=reference_scores(cell),
        provenance={
            "dataset": about,
            "tiers": tiers,
            "search": {"algorithm": type(config).__name__.removesuffix("Config"), **asdict(config)},
            "data": asdict(data),
            "training": asdict(CONFIG),
            "training_minutes": round(seconds / 60, 1),
            "versions": made_with("control"),
        },
    )
    sha256 = save_model(out / cell, model, facts)
    control = ControlModel.load(out / cell)
    native = evaluate(control, episodes)
    text = card(cell, facts, sha256, native)
    write_card(out / cell, text)
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all stages of the cells that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of {', '.join(CELLS)}; none makes all")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for datasets and training state")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/control"), help="folder of the checkpoints")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes for each of 3 seeds")
    options = parser.parse_args(arguments)
    if unknown := set(options.cells) - set(CELLS):
        parser.error(f"unknown cell {sorted(unknown)[0]!r}; choose from {', '.join(CELLS)}")
    torch.set_num_threads(1)
    for cell in options.cells or CELLS:
        make_cell(cell, options.data, options.out, options.episodes, DataConfig())


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main()
