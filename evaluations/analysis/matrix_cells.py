"""Cells of the transfer matrix: a line on the targets of one column, beside the full cache on the same trials.

Scores have many units, and a column has targets of several. So everything is told in percent of the full cache's score;
of log-likelihoods, in percent of its likelihood of a token, and differences in hundredths of a nat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from evaluations.analysis.aggregates import paired_over_tasks, resampled_runs
from evaluations.analysis.clusters import clustered
from evaluations.analysis.estimates import RESAMPLES, Estimate, PairedDifference, percentile_interval
from evaluations.analysis.summary import BOOTSTRAP_SEED, rectangle
from evaluations.rows.file import Row
from evaluations.rows.trials import document_of, trial_id, trials

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
    score: float | None
    """As it is measured, mean over targets; None where these have several kinds of score."""
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
    """This line minus each rival of its size, and minus the full cache, in percent of the full cache's score (of its
    likelihood: hundredths of a nat); corrected (Holm)."""
    best_rival: str | None = None
    """Of its size, the one with the highest score."""


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
    reach = float(stdtrit(len(by_run) - 1, 0.975) * np.std(by_run, ddof=1) / math.sqrt(len(by_run)))
    low, high = over_trials.value - over_trials.low, over_trials.high - over_trials.value
    return Estimate(
        over_trials.value, over_trials.value - math.hypot(low, reach), over_trials.value + math.hypot(high, reach)
    )


@dataclass(frozen=True)
class OnTarget:
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

    def points(self, values: np.ndarray) -> np.ndarray:
        """Scores or their differences in percent of the full cache's mean score; of log-likelihoods, 0.01 nats."""
        return 100.0 * values if self.likelihood else 100.0 * values / self.full.mean()

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


class Played:
    """A line on a column's targets, before it is compared."""

    def __init__(self, line: Line, targets: Mapping[str, OnTarget], native: Mapping[str, float | None]) -> None:
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
        kinds = {row["score_name"] for row in rows}
        return MatrixCell(
            relative=over_runs(estimate, list(by_run.values())),
            native=self._native(),
            score=float(np.mean([t.mean.mean() for t in self.targets.values()])) if len(kinds) == 1 else None,
            kept=self._metric("kept_fraction"),
            bytes=self._metric("bytes_mean"),
            seconds=sum(row["seconds"] for row in rows) / sum(len(trials(row)) for row in rows),
            by_run=by_run,
            by_target=by_target,
            rows=rows,
        )

    def minus(self, other: Played) -> PairedDifference | None:
        """This minus another on the trials that both were given; None where they share none."""
        tasks, by_run = [], {run: [] for run in self.runs}
        for name, mine in self.targets.items():
            theirs = other.targets.get(name)
            known = {} if theirs is None else dict(zip(theirs.ids, theirs.mean.ravel(), strict=True))
            places = [place for place, trial in enumerate(mine.ids) if trial in known]
            if places:
                subtracted = np.array([known[mine.ids[place]] for place in places])
                difference = mine.points(mine.mean.ravel()[places] - subtracted)[None, :]
                tasks.append(clustered(difference, [mine.documents[place] for place in places]))
                for run in self.runs:
                    by_run[run].append(float(mine.points(mine.by_run[run].ravel()[places] - subtracted).mean()))
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


def on_target(
    by_run: Mapping[str, list[Row]], full: Mapping[tuple[int, Any], float], likelihood: bool
) -> OnTarget | None:
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
    return OnTarget(
        whole,
        ids,
        tuple(documents),
        tuple(row for several in rows.values() for row in several),
        against,
        likelihood,
    )
