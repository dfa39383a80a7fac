"""Everything that a transfer experiment can be told, each option with its meaning; the command line is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluations.boards.wandb_runs import Mode

DEFAULT_NAMMS = ("text-v3", "text-v3-seed*", "text-v2", "text-v2-seed*")
DEFAULT_TARGETS = ("text", "memory", "video")
DEFAULT_FREE = ("keydiff",)
DEFAULT_RIVALS = ("window", "random", "h2o_age", "tova", "snapkv", "keydiff")


@dataclass(frozen=True)
class TransferConfig:
    """Everything `transfer.py` can be told."""

    namm: tuple[str, ...] = DEFAULT_NAMMS
    """NAMMs: names of those that ship, folders, or patterns of either. Names that differ in -seedN alone are runs of
    one recipe and make one line; `LINE=A,B` says so of others. Each reads the statistics that it was made with."""

    target: tuple[str, ...] = DEFAULT_TARGETS
    """Columns: text (the shipped Llama), memory (control), video; memory-hard; locomotion; real (SmolLM2, fetched
    beforehand); text=MODEL, real=MODEL (another model, asked as SmolLM2 is), control=TARGET,TARGET, video=MODEL."""

    policy: tuple[str, ...] = DEFAULT_RIVALS
    """Rivals, by name."""

    kept: tuple[float, ...] = (0.25,)
    """Parts of the tokens that everybody is given. Rivals get a budget on each target; a NAMM's threshold is moved
    there by a pass without labels, on what is never scored."""

    heads: tuple[Literal["free", "equal"], ...] = ("free",)
    """How NAMMs divide such a size over layers and heads: as they like, under one threshold, or a budget in every head,
    as their rivals. Both: a line each."""

    free_rivals: tuple[str, ...] | None = None
    """Rivals that are tried with that freedom besides: one threshold for all layers and heads, found as a NAMM's.
    Default: keydiff, where it is a rival."""

    own: bool = True
    """Try each NAMM at the size that it chooses, too."""

    statistics: Literal["source", "sequence", "target"] | None = None
    """Whose feature statistics every NAMM reads. Default: as each was made."""

    seeds: tuple[int, ...] = (1,)
    """Of episodes, prompts, clips and policies that draw."""

    prompts: int | None = None
    """Prompts a task of text. Default: 24; real: 4."""

    tasks: tuple[str, ...] | None = None
    """What the columns of text ask, as `text.py --tasks`. Default: all that the model can; real: four of its suite."""

    lengths: tuple[int, ...] | None = None
    """Context lengths in the columns of text, each a target of its own. Default: 384 tokens; real: 640."""

    clips: int | None = None
    """Clips of video. Default: 24, in the short form 4."""

    episodes: int | None = None
    """Episodes of each control target. Default: as the target says, in locomotion 2."""

    intervals: tuple[int, int] = (64, 48)
    """Tokens between two updates, in text and video, and in control; multiples of 16."""

    reuse: tuple[Path, ...] = ()
    """Folders of other experiments: rows of the same cells are taken from there and not played again."""

    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1, ..."""

    workers: int | None = None
    """Processes of this machine that share the cells. Default: one a core, at most 4."""

    threads: int = 1
    """Torch threads of each process."""

    out: Path = Path("results/transfer")
    """Folder of the experiment; its name is the group in Weights & Biases."""

    wandb: Mode = "auto"
    """auto is online where somebody is logged in, else offline."""

    quick: bool = False
    """A short form to try things out: one run a recipe, three rivals, a task of each kind; other options given here
    win."""

    config: Path | None = None
    """Start from the config.json of an earlier run; other options given here win."""
