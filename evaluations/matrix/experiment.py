"""A transfer experiment from its options to its report: one session over the targets of every column."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from evaluations.analysis.matrix import Column as Shown
from evaluations.analysis.matrix import Matrix, Runs, matrix
from evaluations.boards.mirrored import play_mirrored
from evaluations.commands.devices import check_device
from evaluations.commands.line import open_results
from evaluations.experiment.checks import check_least, check_seeds
from evaluations.experiment.contract import Media, Runner, Unit
from evaluations.experiment.names import STATISTICS, NamedPolicy, judges_by_threshold, named, rivals
from evaluations.matrix.columns import Column, columns, is_text
from evaluations.matrix.config import DEFAULT_FREE, DEFAULT_NAMMS, DEFAULT_RIVALS, TransferConfig
from evaluations.matrix.namms import Recipe, recipes, statistics_of
from evaluations.matrix.page import write_page
from evaluations.matrix.plan import Attached, EqualPlan
from evaluations.matrix.setup import TransferSetup, attached_to, column_of
from evaluations.report import figures, matrix_figures, matrix_tables
from evaluations.rows.file import Row
from evaluations.rows.results import Results
from namm import NAMM
from namm.config import check_interval
from namm.errors import ConfigError
from namm.files import write_atomically
from namm.typed import check_fields

WORKERS = 4
"""Most processes where nobody says how many: each has every model."""
QUICK_RIVALS = ("window", "keydiff")
QUICK_NAMMS = ("text-v3", "text-v2")


@dataclass(frozen=True)
class Loaded:
    """What is compared, once everything is checked and loaded."""

    lines: tuple[Recipe, ...]
    columns: tuple[Column, ...]
    runners: Mapping[str, Runner]
    digests: Mapping[str, str]
    """Of each NAMM by name."""
    plans: tuple[EqualPlan, ...]

    @property
    def runs(self) -> Runs:
        """Line and name of each NAMM, by digest."""
        return {self.digests[name]: (line.name, name) for line in self.lines for name, _ in line.runs}

    @property
    def shown(self) -> tuple[Shown, ...]:
        """The columns with the names that rows give their targets."""
        names: dict[str, dict[str, None]] = {column.name: {} for column in self.columns}
        for plan in self.plans:
            names[column_of(plan.target)][_target_name(plan, self.runners[plan.target])] = None
        return tuple(Shown(column.name, column.title, tuple(names[column.name])) for column in self.columns)


def run_experiment(config: TransferConfig, console: Console, command: str) -> Matrix | None:
    """Plays what has no row yet, draws the report and returns the matrix; None where another process leads.

    Raises:
        NammError: A setting or a file is wrong, or something could not be played.
    """
    policies, free = check(config)
    results = open_results(config.out, console)
    for folder in config.reuse:
        console.print(f"{results.reuse(folder)} rows of {folder} may be reused", markup=False, soft_wrap=True)
    lines = recipes(QUICK_NAMMS if config.quick and config.namm == DEFAULT_NAMMS else config.namm)
    if config.quick:
        lines = tuple(Recipe(line.name, line.runs[:1]) for line in lines)
    asked = columns(config)
    setup = TransferSetup(
        tuple((column.name, column.setup) for column in asked),
        tuple(run for line in lines for run in line.runs),
        config.threads,
    )
    loaded = load(config, setup, lines, asked, policies, free)
    told = {
        **vars(config),
        "config": None,
        "columns": [vars(column) for column in loaded.shown],
        "lines": {line.name: {name: loaded.digests[name] for name, _ in line.runs} for line in lines},
    }
    results.write_config(told)

    def media(unit: Unit, rows: Sequence[Row]) -> Media:
        column = next(column for column in asked if column.name == column_of(unit.target))
        return column.media(loaded.runners[unit.target], unit, rows)

    rows = play_mirrored(
        loaded.plans, loaded.runners, setup, results, console, media, mode=config.wandb, workers=_workers(config),
        namms={loaded.digests[name]: folder for line in lines for name, folder in line.runs},
    )  # fmt: skip
    if rows is None:
        return None
    return report(rows, loaded, results, console, command)


def check(config: TransferConfig) -> tuple[tuple[NamedPolicy, ...], tuple[NamedPolicy, ...]]:
    """The rivals, and those that get a NAMM's freedom, after all that can be checked without opening a file.

    Raises:
        NammError: A setting is wrong.
    """
    check_fields(config)
    check_seeds(config.seeds)
    check_device(config.device)
    for interval in config.intervals:
        check_interval(interval)
    for name in ("tasks", "lengths"):
        if getattr(config, name) == ():
            raise ConfigError(f"--{name} must name at least one, found none.")
        if getattr(config, name) is not None and not any(is_text(target) for target in config.target):
            raise ConfigError(f"--{name} says what columns of text ask, and --target names none: drop it, or add text.")
    if config.lengths is not None and min(config.lengths) < 1:
        raise ConfigError(f"--lengths are numbers of tokens, 1 or more, found {list(config.lengths)}.")
    check_least(config, {"prompts": 1, "clips": 1, "episodes": 1, "workers": 1, "threads": 1})
    if not all(0.0 < share < 1.0 for share in config.kept) or len(set(config.kept)) < len(config.kept):
        raise ConfigError(f"--kept takes different parts of the tokens between 0 and 1, found {list(config.kept)}.")
    if not config.kept and not config.own:
        raise ConfigError("--kept names no size and NAMMs are not to choose their own: nothing is left to compare.")
    if not config.target:
        raise ConfigError("--target must name at least one column, found none.")
    if config.statistics == "target" and _has_video(config):
        raise ConfigError(
            "--statistics target reads text or plays episodes beforehand, and video does neither: drop it."
        )
    if not config.kept:
        return (), ()
    if not config.heads or len(set(config.heads)) < len(config.heads):
        raise ConfigError(f"--heads takes free, equal, or both, each once, found {list(config.heads)}.")
    names = QUICK_RIVALS if config.quick and config.policy == DEFAULT_RIVALS else config.policy
    known = rivals(streams=True)
    policies = named(names, known, streams=True)
    wanted = config.free_rivals
    if wanted is None:
        wanted = tuple(policy.label for policy in policies if policy.label in DEFAULT_FREE)
    free = named(wanted, known, streams=True) if wanted else ()
    for policy in free:
        if policy.keep is not None or not judges_by_threshold(policy.name):
            raise ConfigError(
                f"--free-rivals takes policies that can judge by a threshold, of a size that --kept says, found "
                f"{policy.label!r}; drop it."
            )
    return policies, free


def load(
    config: TransferConfig,
    setup: TransferSetup,
    lines: Sequence[Recipe],
    asked: Sequence[Column],
    policies: Sequence[NamedPolicy],
    free: Sequence[NamedPolicy],
) -> Loaded:
    """Loads every target and NAMM, and plans what is played.

    Raises:
        NammError: Anything wrong with a model, its files or a NAMM.
    """
    runners = setup.load()
    namms = {name: NAMM.from_pretrained(folder) for line in lines for name, folder in line.runs}
    digests = {name: namm.sha256() for name, namm in namms.items()}
    same = [name for name, digest in digests.items() if list(digests.values()).count(digest) > 1]
    if same:
        raise ConfigError(f"{', '.join(same)} are the same NAMM under several names; name it once.")
    read = {name: _statistics(namm, config.statistics) for name, namm in namms.items()}
    on_target = [name for name, statistics in read.items() if statistics == "target"]
    if on_target and _has_video(config):
        raise ConfigError(
            f"{', '.join(on_target)} read the target's own statistics, as they were made, and video has none: leave "
            "video out of --target, or say --statistics source or sequence."
        )
    plans = []
    for column in asked:
        here = [name for name in runners if column_of(name) == column.name]
        plain = [name for name in here if not any(_ends(name, namm) for namm in namms)]
        plans += [
            EqualPlan(
                target=target,
                references=tuple(NamedPolicy.of(name) for name in column.references(runners[target])),
                rivals=tuple(policies),
                namms=tuple(Attached(attached_to(target, name), read[name]) for name in namms),
                seeds=config.seeds,
                shares=config.kept,
                own=config.own,
                sizes=column.sizes,
                heads=config.heads,
                free_rivals=tuple(free),
            )
            for target in plain
        ]
    return Loaded(tuple(lines), tuple(asked), runners, digests, tuple(plans))


def report(
    rows: Sequence[Row],
    loaded: Loaded,
    results: Results,
    console: Console,
    command: str,
) -> Matrix:
    """Writes report.html, summary.md and matrix.png, and shows the matrix."""
    found = matrix(rows, loaded.shown, loaded.runs)
    config = json.loads((results.folder / "config.json").read_text(encoding="utf-8"))
    write_atomically(results.folder / "summary.md", matrix_tables.markdown(found))
    write_atomically(results.folder / "matrix.png", figures.png(matrix_figures.heat_map(found)))
    targets = [target for column in loaded.shown for target in column.targets]
    single = matrix(rows, [Shown(target, target.rpartition("/")[2], (target,)) for target in targets], loaded.runs)
    page = write_page(results.folder / "report.html", rows, found, single, loaded.lines, command, config)
    console.print(matrix_tables.rich_table(found))
    for text in matrix_tables.sentences(found):
        console.print(f"  · {text}", markup=False, soft_wrap=True)
    for text in found.left_out:
        console.print(f"  ! left out: {text}", markup=False, soft_wrap=True)
    console.print(f"rows    {results.path}\nreport  {page}", markup=False, soft_wrap=True)
    return found


def _target_name(plan: EqualPlan, runner: Runner) -> str:
    """What rows call the target of a plan."""
    unit = Unit(plan.target, plan.references[-1], plan.seeds, "reference")
    return runner.cell(unit, plan.seeds[0], _Anything()).target


class _Anything(dict[str, str]):
    """Versions that decide no name."""

    def __missing__(self, key: str) -> str:
        return ""


def _statistics(namm: NAMM, wanted: str | None) -> str:
    found = statistics_of(namm, wanted)
    return found if found in STATISTICS else "source"


def _has_video(config: TransferConfig) -> bool:
    return any(target.partition("=")[0] == "video" for target in config.target)


def _ends(target: str, namm: str) -> bool:
    return target.endswith(attached_to("", namm))


def _workers(config: TransferConfig) -> int:
    return config.workers or max(1, min(WORKERS, os.cpu_count() or 1))
