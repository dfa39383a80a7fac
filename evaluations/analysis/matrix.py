"""The transfer matrix: what each NAMM recipe and each rival keeps of a model's ability, target by target.

A line is a recipe, with one or several NAMMs that it came to (its runs), or a rival, or a reference; a column is a
group of targets of one modality. A cell says the score as a part of the full cache's, what was kept, and how it
compares with the rivals of the same size. Where a recipe has several runs the interval is over trials and over runs
(:func:`over_runs`): whether transfer is a property of the recipe is a question about runs that nobody has made yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from evaluations.analysis.aggregates import paired_over_tasks, resampled_runs
from evaluations.analysis.clusters import clustered
from evaluations.analysis.estimates import RESAMPLES, Estimate, PairedDifference, holm, percentile_interval
from evaluations.analysis.summary import BOOTSTRAP_SEED, rectangle, role
from evaluations.rows.file import Row
from evaluations.rows.policy_names import FULL, is_ceiling, is_namm
from evaluations.rows.trials import LOG_LIKELIHOOD, document_of, of, trial_id, trials

Kind = Literal["reference", "namm", "rival"]


@dataclass(frozen=True)
class Line:
    """Who is compared."""

    name: str
    kind: Kind
    share: float | None = None
    """The part of the tokens that everybody of this size was given; None where nobody said it."""

    @property
    def label(self) -> str:
        """As people read it."""
        return self.name if self.share is None or self.kind != "namm" else f"{self.name} at {100 * self.share:.0f}%"


@dataclass(frozen=True)
class Column:
    """Targets that are averaged, each weighing the same."""

    name: str
    title: str
    targets: tuple[str, ...]
    """As rows name them."""


@dataclass(frozen=True)
class MatrixCell:
    """A line on a column's targets."""

    relative: Estimate
    """Score as a percentage of the full cache's, mean over targets; over trials, and over runs where there are several.
    Of log-likelihoods: the likelihood of a token as a percentage of the full cache's."""
    native: float | None
    """The same, of the model's own way without a cache, where there is one."""
    score: float
    """As it is measured, mean over targets."""
    kept: float
    """Slots held / tokens seen, mean over targets."""
    bytes: float
    """Of keys and values, a trial, mean over targets."""
    seconds: float
    """A trial."""
    by_run: Mapping[str, float]
    """Relative score of each NAMM; one entry where there is one."""
    by_target: Mapping[str, float]
    """Relative score on each target."""
    rows: tuple[Row, ...] = field(repr=False)
    versus: Mapping[str, PairedDifference] = field(default_factory=dict)
    """This line minus each rival of its size, and minus the full cache, in units of the score; corrected (Holm)."""
    best_rival: str | None = None
    """Of its size, the one with the highest score."""


@dataclass(frozen=True)
class Matrix:
    """All lines and columns, and the cells that have rows."""

    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Line, str], MatrixCell]
    """By line and the column's name."""
    left_out: tuple[str, ...]
    """Targets of which nothing can be said as a part of the full cache's score, and why."""

    def cell(self, line: Line, column: Column) -> MatrixCell | None:
        """A cell; None where nothing was played."""
        return self.cells.get((line, column.name))

    def rivals(self, share: float | None) -> list[Line]:
        """Rivals of a size."""
        return [line for line in self.lines if line.kind == "rival" and line.share == share]


Runs = Mapping[str, tuple[str, str]]
"""Of the digest of each NAMM: the line that it belongs to, and its own name."""


def columns_of(rows: Sequence[Row]) -> tuple[Column, ...]:
    """A column for each target: for experiments that have no groups of targets."""
    targets = dict.fromkeys(row["target"] for row in rows)
    return tuple(Column(target, target, (target,)) for target in targets)


def matrix(rows: Sequence[Row], columns: Sequence[Column] | None = None, runs: Runs | None = None) -> Matrix:
    """The matrix of some rows.

    Args:
        rows: Of any modalities; points of curves are left out.
        columns: Groups of targets. Default: every target by itself.
        runs: Which NAMM belongs to which line. Default: each policy of a NAMM is a line.
    """
    shown = [row for row in rows if role(row) != "curve"]
    columns = columns_of(shown) if columns is None else tuple(columns)
    shares = _shares(shown)
    groups: dict[Line, dict[str, dict[str, list[Row]]]] = {}
    for row in shown:
        line, run = _line(row, shares, runs)
        groups.setdefault(line, {}).setdefault(row["target"], {}).setdefault(run, []).append(row)
    cells: dict[tuple[Line, str], MatrixCell] = {}
    left_out: dict[str, None] = {}
    lines = sorted(groups, key=lambda line: (("reference", "namm", "rival").index(line.kind), line.share or 0.0))
    for column in columns:
        full = {target: _by_trial(groups, FULL, target) for target in column.targets}
        native = {target: _native(groups, target) for target in column.targets}
        found = {}
        for line in lines:
            played = {target: groups[line][target] for target in column.targets if target in groups[line]}
            targets, refused = _targets(played, full)
            left_out |= dict.fromkeys(refused)
            if targets and len(played) == len([t for t in column.targets if full[t]]):
                found[line] = _Played(line, targets, native)
        cells |= {(line, column.name): cell for line, cell in _compared(found).items()}
    return Matrix(tuple(line for line in lines if any(line is at for at, _ in cells)), columns, cells, tuple(left_out))


def over_runs(over_trials: Estimate, by_run: Sequence[float]) -> Estimate:
    """An interval over trials and runs: what runs of the recipe come to on average, on any such trials.

    The mean over runs varies with the trials (bootstrap) and with the runs (Student's t, for three runs say little
    about the fourth); the two are independent, so half-widths add in squares.

    Args:
        over_trials: Of the mean over runs, runs held fixed.
        by_run: Each run's own value.
    """
    if len(by_run) < 2:
        return over_trials
    reach = float(stats.t.ppf(0.975, len(by_run) - 1) * np.std(by_run, ddof=1) / math.sqrt(len(by_run)))
    low, high = over_trials.value - over_trials.low, over_trials.high - over_trials.value
    return Estimate(
        over_trials.value, over_trials.value - math.hypot(low, reach), over_trials.value + math.hypot(high, reach)
    )


@dataclass(frozen=True)
class _OnTarget:
    """The scores of a line on one target: the same trials for all runs."""

    by_run: Mapping[str, np.ndarray]
    """(seeds, trials) of each."""
    ids: tuple[tuple[int, Any], ...]
    """Seed and name of each trial, in the order of the raveled arrays."""
    documents: tuple[Any, ...]
    rows: tuple[Row, ...]
    full: np.ndarray
    """(seeds, trials): the full cache's."""
    likelihood: bool
    """Whether scores are log-likelihoods."""

    @property
    def mean(self) -> np.ndarray:
        """Over runs."""
        return np.mean(list(self.by_run.values()), axis=0)

    def relative(self, values: np.ndarray, full: np.ndarray) -> np.ndarray:
        """Mean scores, of any shape, as percentages of the full cache's."""
        if self.likelihood:
            return 100.0 * np.exp(values - full)
        return 100.0 * values / np.where(full > 0, full, self.full.mean())  # a resample may hold its failures alone

    def estimated(self, values: np.ndarray) -> float:
        """The relative score of its trials."""
        return float(self.relative(values.mean(), self.full.mean()))

    def draws(self, place: int) -> np.ndarray:
        """(resamples): the same where trials are drawn again, for this line and for the full cache alike."""
        drawn = [
            resampled_runs(clustered(values, self.documents), RESAMPLES, np.random.default_rng([BOOTSTRAP_SEED, place]))
            for values in (self.mean, self.full)
        ]
        return self.relative(*(each.mean(axis=-1) for each in drawn))


class _Played:
    """A line on a column's targets, before it is compared."""

    def __init__(self, line: Line, targets: Mapping[str, _OnTarget], native: Mapping[str, float | None]) -> None:
        self.line, self.targets, self.native = line, targets, native
        self.runs = tuple(next(iter(targets.values())).by_run)

    def cell(self) -> MatrixCell:
        """Everything that follows from its own rows and the full cache's."""
        by_target = {name: target.estimated(target.mean) for name, target in self.targets.items()}
        draws = [target.draws(place) for place, target in enumerate(self.targets.values())]
        known = all(target.mean.size > 1 for target in self.targets.values())
        value = float(np.mean(list(by_target.values())))
        estimate = percentile_interval(value, np.mean(draws, axis=0), known=known)
        by_run = {
            run: float(np.mean([target.estimated(target.by_run[run]) for target in self.targets.values()]))
            for run in self.runs
        }
        rows = tuple(row for t in self.targets.values() for row in t.rows)
        return MatrixCell(
            relative=over_runs(estimate, list(by_run.values())),
            native=self._native(),
            score=float(np.mean([t.mean.mean() for t in self.targets.values()])),
            kept=self._metric("kept_fraction"),
            bytes=self._metric("bytes_mean"),
            seconds=sum(row["seconds"] for row in rows) / sum(len(trials(row)) for row in rows),
            by_run=by_run,
            by_target=by_target,
            rows=rows,
        )

    def minus(self, other: _Played) -> PairedDifference | None:
        """This minus another on the trials that both were given; None where they share none."""
        tasks, by_run = [], {run: [] for run in self.runs}
        for name, mine in self.targets.items():
            theirs = other.targets.get(name)
            known = {} if theirs is None else dict(zip(theirs.ids, theirs.mean.ravel(), strict=True))
            places = [place for place, trial in enumerate(mine.ids) if trial in known]
            if places:
                subtracted = np.array([known[mine.ids[place]] for place in places])
                difference = (mine.mean.ravel()[places] - subtracted)[None, :]
                tasks.append(clustered(difference, [mine.documents[place] for place in places]))
                for run in self.runs:
                    by_run[run].append(float((mine.by_run[run].ravel()[places] - subtracted).mean()))
        if not tasks:
            return None
        test = paired_over_tasks(tasks, BOOTSTRAP_SEED)
        return replace(test, difference=over_runs(test.difference, [float(np.mean(v)) for v in by_run.values()]))

    def _metric(self, name: str) -> float:
        values = [np.mean([row["metrics"].get(name) or 0.0 for row in target.rows]) for target in self.targets.values()]
        return float(np.mean(values))

    def _native(self) -> float | None:
        told = [self.native.get(name) for name in self.targets]
        means = [float(target.mean.mean()) for target in self.targets.values()]
        if any(base is None or base <= 0 for base in told):
            return None
        return float(np.mean([100.0 * mean / base for mean, base in zip(means, told, strict=True) if base]))


def _compared(found: Mapping[Line, _Played]) -> dict[Line, MatrixCell]:
    """Cells with their differences to the rivals of their size; all of a column corrected together."""
    cells = {line: played.cell() for line, played in found.items()}
    tests: dict[tuple[Line, str], PairedDifference] = {}
    for line, played in found.items():
        if line.kind != "namm":
            continue
        others = [other for other in found if other.kind == "rival" and other.share == line.share]
        others += [other for other in found if other.name == FULL]
        for other in others:
            test = played.minus(found[other])
            if test is not None:
                tests[line, other.name] = test
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True)) if tests else {}
    for line in cells:
        versus = {name: replace(test, adjusted=corrected[at, name]) for (at, name), test in tests.items() if at == line}
        rivals = {o.name: cells[o].relative.value for o in cells if o.kind == "rival" and o.share == line.share}
        best = max(rivals, key=lambda name: rivals[name], default=None) if line.kind == "namm" else None
        cells[line] = replace(cells[line], versus=versus, best_rival=best)
    return cells


def _shares(rows: Sequence[Row]) -> dict[tuple[str, int | None], float]:
    """What share a budget stands for on a target: a row that another command made does not say it."""
    told = [(row, row["memory"].get("share")) for row in rows]
    return {(row["target"], row["identity"].get("budget")): share for row, share in told if share is not None}


def _line(row: Row, shares: Mapping[tuple[str, int | None], float], runs: Runs | None) -> tuple[Line, str]:
    """The line of a row, and its run."""
    policy = row["policy"]
    share = row["memory"].get("share", row["identity"].get("options", {}).get("keep"))
    if share is None and role(row) == "given":
        share = shares.get((row["target"], row["identity"].get("budget")))
    if policy in of(row).references or is_ceiling(policy):
        return Line(policy, "reference"), policy
    if not is_namm(policy):
        return Line(policy, "rival", share), policy
    digest = row["identity"].get("namm_sha256", "")
    if runs is None:
        return Line(policy, "namm", share), policy
    line, run = runs.get(digest, (f"namm {digest[:8]}", digest[:8]))
    return Line(line, "namm", share), run


def _targets(
    played: Mapping[str, Mapping[str, list[Row]]], full: Mapping[str, dict[tuple[int, Any], float]]
) -> tuple[dict[str, _OnTarget], list[str]]:
    """A line's targets, and those that cannot be told as a part of the full cache's score."""
    found, refused = {}, []
    for target, by_run in played.items():
        first = next(iter(by_run.values()))[0]
        kind = of(first).score(first["score_name"])
        likelihood = kind.name == LOG_LIKELIHOOD.name
        if not full[target]:
            refused.append(f"{target}: the full cache was not played")
        elif not kind.percentage and not likelihood:
            refused.append(f"{target}: a {first['score_name']} has no zero, so nothing is a part of it")
        else:
            on_target = _on_target(by_run, full[target], likelihood)
            if on_target is not None and not likelihood and on_target.full.mean() <= 0:
                refused.append(f"{target}: the full cache scores {on_target.full.mean():g}")
            elif on_target is not None:
                found[target] = on_target
    return found, refused


def _on_target(
    by_run: Mapping[str, list[Row]], full: Mapping[tuple[int, Any], float], likelihood: bool
) -> _OnTarget | None:
    """The trials that all runs and the full cache were given."""
    rows = {run: sorted(several, key=lambda row: row["seed"]) for run, several in by_run.items()}
    scores = {
        run: {(row["seed"], trial_id(row, trial)): trial["score"] for row in several for trial in trials(row)}
        for run, several in rows.items()
    }
    first = next(iter(rows.values()))
    seeds: list[list[tuple[int, Any]]] = []
    documents = []
    for row in first:
        ids = [(row["seed"], trial_id(row, trial)) for trial in trials(row)]
        shared = [trial for trial in ids if trial in full and all(trial in known for known in scores.values())]
        seeds += [shared] if shared else []
        documents += [
            document_of(row, trial) for trial, name in zip(trials(row), ids, strict=True) if name in set(shared)
        ]
    if not seeds:
        return None
    ids = tuple(trial for several in seeds for trial in several)
    whole = {
        run: rectangle([[known[trial] for trial in several] for several in seeds]) for run, known in scores.items()
    }
    against = rectangle([[full[trial] for trial in several] for several in seeds])
    return _OnTarget(
        whole,
        ids,
        tuple(documents),
        tuple(row for several in rows.values() for row in several),
        against,
        likelihood,
    )


def _by_trial(
    groups: Mapping[Line, Mapping[str, Mapping[str, list[Row]]]], name: str, target: str
) -> dict[tuple[int, Any], float]:
    """The scores of a reference on a target, by seed and trial."""
    by_run = groups.get(Line(name, "reference"), {}).get(target, {})
    return {
        (row["seed"], trial_id(row, trial)): trial["score"]
        for several in by_run.values()
        for row in several
        for trial in trials(row)
    }


def _native(groups: Mapping[Line, Mapping[str, Mapping[str, list[Row]]]], target: str) -> float | None:
    """Mean score of the model used without a cache, as it is meant to be."""
    for line, by_target in groups.items():
        for several in by_target.get(target, {}).values():
            if line.kind == "reference" and of(several[0]).native == line.name:
                return float(np.mean([trial["score"] for row in several for trial in trials(row)]))
    return None
