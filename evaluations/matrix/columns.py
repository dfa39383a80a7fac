"""The columns of the transfer matrix: groups of targets of one modality, each loaded as its own command loads it.

A cell has the key that `rl.py`, `text.py` or `video.py` would give it, so that rows go from one experiment to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evaluations.control.cells import ControlRunner
from evaluations.control.media import media_of
from evaluations.control.setup import ControlSetup
from evaluations.control.shipped import SUITES
from evaluations.control.targets import TargetOptions
from evaluations.experiment.contract import Media, Runner, Unit
from evaluations.language.config import SHIPPED as SHIPPED_MODELS
from evaluations.language.config import TextConfig
from evaluations.language.examples import example_page
from evaluations.language.experiment import setup_of as text_setup
from evaluations.language.real_suite import suite_options
from evaluations.matrix.config import DEFAULT_TARGETS, TransferConfig
from evaluations.matrix.plan import EpisodeSizes, PromptSizes, Sizes
from evaluations.matrix.setup import Loadable
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL, NATIVE
from evaluations.tasks.video.tasks import OWN
from evaluations.vision.config import VideoConfig
from evaluations.vision.experiment import setup_of as video_setup
from evaluations.vision.filmstrip import strip_picture
from evaluations.vision.shipped import SHIPPED_MODEL as SHIPPED_VIDEO
from namm.errors import UnknownNameError, did_you_mean

MEMORY = ("tmaze-150", "tmaze-3cues-150", "reacher-100", "repeat-previous", "autoencode")
"""The memory suite without its longer corridors and waits."""
MEMORY_HARD = SUITES["memory-hard"]
LOCOMOTION = ("hopper-medium", "halfcheetah-medium")
LOCOMOTION_EPISODES = 2
"""Each has a thousand steps, and locomotion tells memories apart in no number of them."""
SUITE_TARGETS = {"memory": MEMORY, "memory-hard": MEMORY_HARD, "locomotion": LOCOMOTION}
KINDS = ("text", "real", "control", "video")
NAMED = ("text", "real", "memory", "memory-hard", "locomotion", "video")
QUICK_TEXT = ("pairs", "needles/multikey")
PROMPTS = 24
"""A task of text."""
QUICK = 4
"""Prompts and clips of the short form."""
QUICK_TARGETS = ("text", "memory", "video")

MediaOf = Callable[[Runner, Unit, Sequence[Row]], Media]


@dataclass(frozen=True)
class Column:
    """A group of targets."""

    name: str
    title: str
    setup: Loadable
    sizes: Sizes
    references: Callable[[Runner], tuple[str, ...]]
    """Policies that nobody asks to forget, on a target."""
    media: MediaOf
    """What Weights & Biases shows beside the numbers."""


def is_text(written: str) -> bool:
    """Whether a column, as it is written, is one of text."""
    return written.partition("=")[0] in ("text", "real")


def columns(config: TransferConfig) -> tuple[Column, ...]:
    """The columns that are named.

    Raises:
        UnknownNameError: There is no such column.
    """
    found: dict[str, Column] = {}
    usual = config.target == DEFAULT_TARGETS
    for written in QUICK_TARGETS if usual and config.quick else config.target:
        name, given, value = written.partition("=")
        if (name not in KINDS) if given else (name not in NAMED):
            known = [*NAMED, *(f"{kind}=..." for kind in KINDS)]
            raise UnknownNameError(f"Unknown target {written!r}. {did_you_mean(written, known)}")
        found[written] = _column(config, written, name, value)
    return tuple(found.values())


def _column(config: TransferConfig, written: str, name: str, value: str) -> Column:
    if name == "text":
        model = value or str(SHIPPED_MODELS / "text" / "recall-llama")
        return _text(config, written, f"text: {Path(model).name}", {"model": model})
    if name == "real":
        told = _suite(config) | ({"model": value} if value else {})
        return _text(config, written, f"text: {Path(value).name or 'SmolLM2'}", told)
    if name == "video":
        return _video(config, written, value or str(SHIPPED_VIDEO))
    targets = value.split(",") if value else SUITE_TARGETS[name][: 1 if config.quick else None]
    title = f"control: {value or name}"
    return _control(config, written, title, tuple(target.strip() for target in targets))


def _suite(config: TransferConfig) -> dict[str, Any]:
    """The suite for real models at one protocol, with the tasks, lengths and prompts of its short form."""
    whole, short = (suite_options("real", quick, None, config.device) for quick in (False, True))
    narrowed = {key: short[key] for key in ("tasks", "lengths", "context_tokens", "questions", "samples", "prompts")}
    return {key: value for key, value in (whole | narrowed).items() if key not in ("policy", "intervals")}


def _text(config: TransferConfig, name: str, title: str, told: Mapping[str, Any]) -> Column:
    prompts = QUICK if config.quick and config.prompts is None else config.prompts
    asked = {"tasks": config.tasks, "lengths": config.lengths, "context_tokens": config.lengths}
    asked |= {"prompts": prompts, "samples": prompts}
    options = {"prompts": PROMPTS, **told, **{key: value for key, value in asked.items() if value is not None}}
    if config.quick and config.tasks is None:
        options["tasks"] = options.get("tasks", QUICK_TEXT)[:1]
    text = TextConfig(
        **options, intervals=(config.intervals[0],), seeds=config.seeds, out=config.out, device=config.device,
        threads=config.threads,
    )  # fmt: skip
    sizes = PromptSizes(config.intervals[0], text.protect_last)

    def media(runner: Runner, unit: Unit, rows: Sequence[Row]) -> Media:
        del runner, unit
        return Media(html=example_page(rows, config.out / "media"))

    return Column(name, title, text_setup(text, ()), sizes, lambda runner: (FULL,), media)


def _video(config: TransferConfig, name: str, model: str) -> Column:
    clips = QUICK if config.quick and config.clips is None else config.clips
    video = VideoConfig(
        model=model, clips=clips, benchmark=OWN[:1] if config.quick else OWN, interval=config.intervals[0],
        seeds=config.seeds, out=config.out,
        device=config.device, threads=config.threads,
    )  # fmt: skip

    def media(runner: Runner, unit: Unit, rows: Sequence[Row]) -> Media:
        del runner, unit
        return Media(picture=strip_picture(rows, config.out / "media"))

    sizes = PromptSizes(config.intervals[0], video.protect_last)
    return Column(name, f"video: {Path(model).name}", video_setup(video, ()), sizes, lambda runner: (FULL,), media)


def _control(config: TransferConfig, name: str, title: str, targets: tuple[str, ...]) -> Column:
    episodes = config.episodes or (LOCOMOTION_EPISODES if name == "locomotion" else None)
    options = TargetOptions(env=targets, episodes=episodes, quick=config.quick)
    setup = ControlSetup(
        targets=options, namm=None, device=config.device, interval=config.intervals[1], threads=config.threads,
        trace_seed=config.seeds[0],
    )  # fmt: skip

    def references(runner: Runner) -> tuple[str, ...]:
        window = cast(ControlRunner, runner).control.facts.context_steps is not None
        return (NATIVE, FULL) if window else (FULL,)

    def media(runner: Runner, unit: Unit, rows: Sequence[Row]) -> Media:
        del unit
        return media_of(rows, cast(ControlRunner, runner).target, config.out, False, lambda line: None)

    return Column(name, title, setup, EpisodeSizes(config.intervals[1]), references, media)
