"""Everything that a control experiment can be told, each option with its meaning; the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from evaluations.boards.wandb_package import Mode
from evaluations.experiment.names import NAMMS, SHIPPED, rivals
from evaluations.rows.policy_names import FULL, NATIVE
from evaluations.rows.score_kinds import ScoreKind
from namm.stores import StoreName
from namm.typed import Count, Positive

NAMES = (NATIVE, FULL, *NAMMS, *rivals(streams=True))
"""Every policy that can play episodes."""


@dataclass(frozen=True)
class RLConfig:
    """Everything `rl.py` can be told."""

    suite: tuple[str, ...] = ()
    """Sets of shipped targets: d4rl (the nine locomotion cells), memory, default. Not together with --env."""

    env: tuple[str, ...] = ()
    """Shipped targets (hopper-medium, tmaze-150, ...) or Gymnasium ids. Default: what --suite default names."""

    checkpoint: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Decision Transformer: a folder or a Hugging Face Hub id. May be given several times."""

    dataset: str | None = None
    """State statistics for checkpoints that lack them: D4RL HDF5 file, D4RL name (hopper-medium) or Minari id."""

    namm: Path = SHIPPED
    """Folder of the NAMM."""

    policy: tuple[str, ...] = NAMES
    """Policies to compare. A NAMM names whose feature statistics it reads: namm:source (also `namm`), namm:target,
    namm:sequence. Default: all of them, both references and every rival."""

    budget: int | None = None
    """Slots per KV head after an update, for every policy that forgets, NAMM included. Default: rivals match NAMM."""

    match: str = "best"
    """The NAMM whose mean size the rivals get: `best` (highest score, of equals the smaller) or e.g. namm:target."""

    curve: int = 0
    """Points of a curve of score against cache size, for every policy that forgets. NAMM ranks, the budget decides."""

    curve_seeds: tuple[int, ...] | None = None
    """Seeds of the curve's points, some of --seeds. Default: the first two."""

    interval: int = 48
    """Tokens between two updates, a multiple of 16; three tokens are one environment step."""

    episodes: int | None = None
    """Episodes per target, policy and seed. Default: 4 for Hopper, 32 and 16 for the mazes."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed is a set of reset seeds that all policies share."""

    target_return: float | None = None
    """Return to ask the agent for. Default: what the checkpoint says."""

    return_scale: Positive | None = None
    """What returns-to-go are divided by. Default: what the checkpoint says, else 1000."""

    context_steps: Count | None = None
    """Steps of the native window. Default: what the checkpoint says, else 20."""

    reference: tuple[float, float] | None = None
    """Return of a random and of an expert policy, for normalised scores. Default: the checkpoint's, else D4RL's."""

    score: ScoreKind = "auto"
    """A target's score: its success rate, or its return (normalised where there are reference scores). auto: the
    success rate where any episode tells of success."""

    max_steps: int | None = None
    """Cut every episode after so many steps (normalised scores then mean little). Default: the environment decides."""

    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1, ..."""

    workers: int = 1
    """Processes of this machine that share the cells; several machines share --out (docs/distribution.md)."""

    simulators: int | None = None
    """Processes that step the environments while the model acts; 0: none. Default: spare cores, for large batches."""

    lanes: int = 2
    """Parts of a large batch that take turns, so that simulators overlap with the model. 1 is faster with --workers,
    one a core; its rows are its own, for another size of batch rounds otherwise."""

    store: StoreName = "packed"
    """How memories hold what is kept: packed, no slot unused; or padded, short heads filled up to one rectangle, faster
    for large batches and up to a third larger. Its rows are its own, as those of --lanes 1."""

    threads: int = 1
    """Threads of torch on a CPU, in each process: a step of a small model is too short to be shared."""

    out: Path = Path("results/rl")
    """Folder of the experiment; its name is the group in Weights & Biases."""

    wandb: Mode = "auto"
    """auto is online where somebody is logged in, else offline."""

    video: bool = True
    """Make an animation of one episode per target and policy."""

    quick: bool = False
    """A short form to try things out: few episodes, without the longest maze, and on the command line one seed; other
    options given here win."""

    config: Path | None = None
    """Start from the config.json of an earlier run; other options given here win."""
