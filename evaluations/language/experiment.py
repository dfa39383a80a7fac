"""A text experiment from its options to its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluations.analysis.summary import summarise
from evaluations.boards.mirrored import play_mirrored
from evaluations.commands.line import open_results
from evaluations.experiment.checks import check_budget, check_least, check_released, check_seeds
from evaluations.experiment.contract import Media, Size, Unit
from evaluations.experiment.matched_plan import MatchedPlan
from evaluations.experiment.names import NamedPolicy
from evaluations.language import terminal
from evaluations.language.cells import ReadingOptions, TextRunner
from evaluations.language.config import TextConfig
from evaluations.language.examples import example_page
from evaluations.language.page import named, page_of, write_page
from evaluations.language.plan import chosen
from evaluations.language.setup import CORPUS, OWN, ExamOptions, ModelOptions, TextSetup, task_names
from evaluations.report import markdown
from evaluations.rows.file import Row
from evaluations.tasks.recall.corpus import default_vocabulary
from evaluations.tasks.text import BenchmarkOptions
from modalities.huggingface.rope import NTKRope
from modalities.pretrained import load_config
from namm.config import check_interval
from namm.errors import ConfigError, NammError
from namm.files import write_atomically

QUICK_TASKS = ("pairs", "needles/multikey", "corpus/next-line")
PROMPTS = 32
QUICK_PROMPTS = 8


def run_experiment(config: TextConfig, console: Console, command: str) -> list[Row]:
    """Runs what has no row yet, draws the report and returns all rows.

    Raises:
        NammError: A setting or a file is wrong, or something could not be read.
    """
    rows = play_experiment(config, console)
    if rows is not None:
        _report(
            rows, config.out, console, command, json.loads((config.out / "config.json").read_text(encoding="utf-8"))
        )
    return rows or []


def play_experiment(config: TextConfig, console: Console) -> list[Row] | None:
    """Runs what has no row yet and returns all rows; None where another process leads.

    Raises:
        NammError: A setting or a file is wrong, or something could not be read.
    """
    policies, match = check(config)
    results = open_results(config.out, console)
    setup = setup_of(config, policies)
    runners = setup.load()
    tasks = tuple(dict.fromkeys(runner.exam.name for runner in runners.values()))
    results.write_config({**vars(config), "tasks": tasks, "config": None})
    plans = [_plan(config, label, runner, policies, match) for label, runner in runners.items()]
    folders = {runner.namm.sha256(): config.namm for runner in runners.values() if runner.namm is not None}

    def media(unit: Unit, rows: Sequence[Row]) -> Media:
        return Media(html=example_page(rows, results.folder / "media"))

    return play_mirrored(
        plans, runners, setup, results, console, media, mode=config.wandb, workers=config.workers, namms=folders
    )


def check(config: TextConfig) -> tuple[tuple[NamedPolicy, ...], str | None]:
    """The policies and whose size they get, after everything that can be checked without opening a file.

    Raises:
        NammError: A setting is wrong.
    """
    for interval in config.intervals:
        check_interval(interval)
    sizes = {name: getattr(config, name) for name in ("budget", "kept_fraction", "budget_fraction")}
    if sum(value is not None for value in sizes.values()) > 1:
        raise ConfigError("Give one of --budget, --kept-fraction and --budget-fraction, not several.")
    for name in ("kept_fraction", "budget_fraction"):
        if sizes[name] is not None and not 0.0 < sizes[name] <= 1.0:
            raise ConfigError(f"--{name.replace('_', '-')} must lie in (0, 1], found {sizes[name]}.")
    for name in ("intervals", "seeds", "context_tokens", "lengths", "questions"):
        if not getattr(config, name):
            raise ConfigError(f"--{name.replace('_', '-')} must name at least one, found none.")
    least = {"budget": 1, "prompts": 1, "batch": 1, "batch_tokens": 1, "chunk": 1, "workers": 1, "threads": 1}
    least |= {"limit": 1, "samples": 1, "window": 2, "protect_last": 0, "example_tokens": 0}
    check_least(config, least)
    check_seeds(config.seeds)
    sized = config.budget is not None or config.kept_fraction is not None
    policies, match = chosen(config.policy, config.match, sized)
    check_released(policies, config.schedule, config.intervals, "--intervals")
    check_budget(policies, config.budget, config.protect_last)
    if config.tasks is not None:
        task_names(config.tasks)
    return policies, match


def setup_of(config: TextConfig, policies: Sequence[NamedPolicy]) -> TextSetup:
    """What every process of the experiment loads."""
    rope = None if config.rope_factor is None else NTKRope(config.rope_factor, config.rope_alpha)
    model = ModelOptions(config.model, config.dtype, config.device, rope)
    short = config.quick and config.suite is None
    tasks = QUICK_TASKS if short and not config.tasks else config.tasks
    prompts = (QUICK_PROMPTS if short else PROMPTS) if config.prompts is None else config.prompts
    exams = ExamOptions(
        tasks=tasks or default_tasks(config.model),
        context_tokens=config.context_tokens,
        prompts=prompts,
        benchmark=BenchmarkOptions(
            config.data,
            config.templates,
            config.lengths,
            config.samples,
            config.prompt_set,
            config.depths,
            config.texts,
        ),
        window=config.window,
        chat_template=config.chat_template,
        limit=config.limit,
        answers=config.answers,
        questions=config.questions,
    )
    reading = ReadingOptions(
        interval=config.intervals[0],
        schedule=config.schedule,
        protected_last=config.protect_last,
        batch=config.batch,
        batch_tokens=config.batch_tokens,
        chunk=config.chunk,
        share=config.share,
        trace_seed=config.seeds[0],
        trace_tokens=config.example_tokens,
    )
    namm = config.namm if any(spec.is_namm for spec in policies) else None
    return TextSetup(model, exams, namm, config.intervals, reading, config.out, config.threads)


def default_tasks(model: str) -> tuple[str, ...]:
    """All that a model can be asked without data: the shipped vocabulary's tasks only where it has that vocabulary."""
    try:
        size = load_config(model).get_text_config().vocab_size
    except (NammError, AttributeError):
        return OWN  # loading the model says what is wrong
    return OWN if size == default_vocabulary().size else tuple(CORPUS)


def _plan(
    config: TextConfig, label: str, runner: TextRunner, policies: tuple[NamedPolicy, ...], match: str | None
) -> MatchedPlan:
    seeds = config.seeds if runner.exam.drawn else config.seeds[:1]
    return MatchedPlan(
        target=label,
        policies=policies,
        seeds=tuple(seeds),
        interval=None if config.schedule == "prompt" else runner.options.interval,
        protected_last=config.protect_last,
        match=match,
        size=Size(budget=config.budget, kept_fraction=config.kept_fraction),
        cap=config.budget_fraction,
    )


def _report(rows: Sequence[Row], folder: Path, console: Console, command: str, told: Mapping[str, Any]) -> None:
    summaries = summarise(rows, named(rows))
    write_atomically(folder / "summary.md", markdown.markdown(rows, summaries))
    report = write_page(folder / "report.html", rows, summaries, page_of(command, told))
    terminal.show(summaries, console)
    console.print(f"rows    {folder / 'rows.jsonl'}\nreport  {report}", markup=False, soft_wrap=True)
