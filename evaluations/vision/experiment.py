"""A video experiment from its options to its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluations.analysis.summary import summarise
from evaluations.boards.mirrored import play_mirrored
from evaluations.commands.line import open_results
from evaluations.experiment.checks import check_budget, check_curve, check_least, check_released, check_seeds
from evaluations.experiment.contract import Media, Size, Unit
from evaluations.experiment.matched_plan import MatchedPlan
from evaluations.experiment.names import NamedPolicy
from evaluations.report import markdown
from evaluations.rows.file import Row
from evaluations.tasks.video.base import VideoOptions
from evaluations.tasks.video.tasks import task_names
from evaluations.vision.cells import VideoRunner, WatchingOptions
from evaluations.vision.config import VideoConfig
from evaluations.vision.filmstrip import strip_picture
from evaluations.vision.loading import ModelOptions
from evaluations.vision.page import page_of, write_page
from evaluations.vision.plan import DEFAULT, NEED_CLIP, chosen
from evaluations.vision.setup import VideoSetup
from evaluations.vision.shipped import CLIP_FOLDER
from namm.config import check_interval
from namm.errors import ConfigError
from namm.files import write_atomically

CLIPS = 24
QUICK_CLIPS = 4
QUICK_POLICIES = ("full", "namm:source", "window", "h2o", "random")


def run_experiment(config: VideoConfig, console: Console, command: str) -> list[Row]:
    """Runs what has no row yet, draws the report and returns all rows.

    Raises:
        NammError: A setting or a file is wrong, or nothing could be asked.
    """
    rows = play_experiment(config, console)
    if rows is not None:
        told = json.loads((config.out / "config.json").read_text(encoding="utf-8"))
        _report(rows, config.out, console, command, told)
    return rows or []


def play_experiment(config: VideoConfig, console: Console) -> list[Row] | None:
    """Runs what has no row yet and returns all rows; None where another process leads.

    Raises:
        NammError: A setting or a file is wrong, or nothing could be asked.
    """
    policies, match = check(config)
    results = open_results(config.out, console)
    setup = setup_of(config, policies)
    runners = setup.load()
    _check_judged(policies, runners)
    results.write_config({**vars(config), "benchmark": setup.tasks, "config": None})
    plans = [_plan(config, name, runner, policies, match) for name, runner in runners.items()]
    folders = {runner.namm.sha256(): config.namm for runner in runners.values() if runner.namm is not None}

    def media(unit: Unit, rows: Sequence[Row]) -> Media:
        return Media(picture=strip_picture(rows, results.folder / "media"))

    return play_mirrored(
        plans, runners, setup, results, console, media, mode=config.wandb, workers=config.workers, namms=folders
    )


def check(config: VideoConfig) -> tuple[tuple[NamedPolicy, ...], str | None]:
    """The policies and whose size they get, after everything that can be checked without opening a file.

    Raises:
        NammError: A setting is wrong.
    """
    check_interval(config.interval)
    task_names(config.benchmark)
    check_seeds(config.seeds)
    least = {"budget": 1, "batch": 1, "chunk": 1, "workers": 1, "threads": 1, "limit": 1, "clips": 1, "frames": 1}
    check_least(config, {**least, "protect_last": 0, "curve": 0})
    if config.rope_factor is not None and config.rope_factor < 1.0:
        raise ConfigError(f"--rope-factor stretches positions by 1 or more, found {config.rope_factor}.")
    policies, match = chosen(_names(config), config.match, config.budget is not None)
    check_released(policies, config.schedule, (config.interval,), "--interval")
    check_curve(policies, config.curve)
    check_budget(policies, config.budget, config.protect_last)
    return policies, match


def setup_of(config: VideoConfig, policies: Sequence[NamedPolicy]) -> VideoSetup:
    """What every process of the experiment loads."""
    clips = (QUICK_CLIPS if config.quick else CLIPS) if config.clips is None else config.clips
    reading = WatchingOptions(
        interval=config.interval,
        schedule=config.schedule,
        protected_last=config.protect_last,
        batch=config.batch,
        chunk=config.chunk,
        trace_seed=config.seeds[0],
    )
    return VideoSetup(
        model=ModelOptions(config.model, config.dtype, config.device, config.rope_factor, config.chat),
        tasks=task_names(config.benchmark),
        videos=VideoOptions(config.data, config.template, config.subtitles, clips, config.frames),
        limit=config.limit,
        namm=config.namm if any(spec.is_namm for spec in policies) else None,
        clip=config.clip,
        labels=config.labels,
        reading=reading,
        folder=config.out,
        threads=config.threads,
    )


def _names(config: VideoConfig) -> tuple[str, ...]:
    """The policies that are named, or the usual; those that need a CLIP where the model brings one."""
    if config.policy is not None:
        return config.policy
    has_clip = config.clip is not None or (Path(config.model) / CLIP_FOLDER / "open_clip_config.json").exists()
    if config.quick:
        return (*QUICK_POLICIES, *(("relevance",) if has_clip else ()))
    return (*DEFAULT, *(NEED_CLIP if has_clip else ()))


def _check_judged(policies: Sequence[NamedPolicy], runners: Mapping[str, VideoRunner]) -> None:
    """Raises ConfigError for policies that need a CLIP where there is none."""
    wanted = [spec.label for spec in policies if spec.name.base in NEED_CLIP]
    if wanted and any(runner.watching.judge is None for runner in runners.values()):
        raise ConfigError(
            f"{', '.join(wanted)} judge frames by a CLIP, found none in the model's folder; pass --clip, such as "
            "ViT-L-14-336:openai, hf-hub:OWNER/NAME or local-dir:FOLDER."
        )


def _plan(
    config: VideoConfig, name: str, runner: VideoRunner, policies: tuple[NamedPolicy, ...], match: str | None
) -> MatchedPlan:
    return MatchedPlan(
        target=name,
        policies=policies,
        seeds=tuple(config.seeds) if runner.task.drawn else tuple(config.seeds[:1]),
        interval=None if config.schedule == "prompt" else config.interval,
        protected_last=config.protect_last,
        match=match,
        size=Size(budget=config.budget),
        curve=config.curve,
    )


def _report(rows: Sequence[Row], folder: Path, console: Console, command: str, told: Mapping[str, Any]) -> None:
    summaries = summarise(rows)
    write_atomically(folder / "summary.md", markdown.markdown(rows, summaries))
    report = write_page(folder / "report.html", rows, summaries, page_of(command, told))
    markdown.show(rows, summaries, console)
    console.print(f"rows    {folder / 'rows.jsonl'}\nreport  {report}", markup=False, soft_wrap=True)
