"""What a kind of model is scored on, described once; rows, analysis, reports and boards look it up, ask nothing else.

A modality (control, text, video, ...) describes its trials in one `Trials`. Ours are found by their place: every folder
of evaluations/ with a module `trials` that holds `TRIALS`. Others come by entry point, group `namm.trials`, or by
`register`. A row names its modality in its identity.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import evaluations
from evaluations.rows.file import Row, Trial
from evaluations.rows.policy_names import FULL
from namm.errors import DataError, UnknownNameError, did_you_mean
from namm.outside import brought

Remark = tuple[Literal["note", "warning"], str]
"""What must be said beside a number."""

GROUP = "namm.trials"
"""Entry points of packages that describe trials of their own; each names a `Trials`."""


@dataclass(frozen=True)
class Score:
    """A kind of score: what a row's `score_name` says."""

    name: str
    title: str
    """Of its column."""
    help: str
    percentage: bool = True
    """From 0 to 100, so that it can be averaged with those of other targets."""
    digits: int = 1
    """Shown behind the point."""
    rate: bool = False
    """The share of the trials that succeeded, and nothing between."""
    value: str | None = None
    """Key of a trial that holds it also where the score is another."""


@dataclass(frozen=True)
class Measure:
    """A metric of its rows that tables show beside those that all rows have."""

    metric: str
    title: str
    help: str
    table: Literal["score", "kept"] = "kept"
    """Beside the scores, or beside what is kept and how long it took."""
    scale: float = 1.0
    digits: int = 1


@dataclass(frozen=True)
class Trials:
    """The trials of a modality."""

    modality: str
    """As the identity of a row names it."""
    word: str
    """What people call a trial: "episode"."""
    key: str
    """Where a row has its trials: "episodes"."""
    identity: str
    """Key of a trial that two policies share when they are given the same one: "reset_seed"."""
    shared: str
    """What they share, as people say it: "reset seeds"."""
    sized: str
    """When the memory of a trial is measured, as people say it: "over an episode"."""
    packages: tuple[str, ...]
    """Whose versions stand beside a score; those that all modalities share are kept with every row anyway."""
    code: tuple[str, ...]
    """Modules and packages that decide or measure results, besides those that all modalities share."""
    document: str = "document"
    """Key of a trial that tells what it is about, where others may be about the same."""
    time: str = "token"
    """What the time of a trial is counted in: "environment step"."""
    scores: tuple[Score, ...] = ()
    """Kinds of score; any other is a percentage."""
    measures: tuple[Measure, ...] = ()
    own_length: bool = False
    """Whether a policy decides how long a trial lasts."""
    native: str | None = None
    """The policy that uses the model as it is meant to be used without any cache, where there is such a thing."""
    caveat: Callable[[Row], str] = field(default=lambda row: "")
    """What must stand beside every score of a row, in two or three words; empty where nothing must."""
    remarks: Callable[[Row], list[Remark]] = field(default=lambda row: [])
    """The same in whole sentences, and whatever else a reader must know before reading its scores."""
    board: str | None = None
    """Where its board is, as "package.module:NAME" (evaluations/boards/board.py); None for what all rows have."""

    @property
    def plural(self) -> str:
        """What people call several."""
        return f"{self.word}s"

    @property
    def references(self) -> tuple[str, ...]:
        """Policies that are shown for orientation: nobody asks them to forget."""
        return (FULL,) if self.native is None else (self.native, FULL)

    def environment(self, row: Row) -> str:
        """Where a row was played or what was asked, as it is shown beside its scores."""
        caveat = self.caveat(row)
        return f"{row['task']} ({caveat})" if caveat else row["task"]

    @property
    def success(self) -> Score | None:
        """The kind of score that is a share of successes, where trials say themselves whether they were one."""
        return next((score for score in self.scores if score.rate and score.value), None)

    def score(self, name: str) -> Score:
        """A kind of score by its name; one that was not described is a percentage."""
        return next((score for score in self.scores if score.name == name), UNDESCRIBED)


UNDESCRIBED = Score("score", "score", "0 to 100: accuracy, or the benchmark's own metric")
"""Of benchmarks that bring a metric of their own."""
LOG_LIKELIHOOD = Score(
    "log-likelihood of a token", "log-likelihood", "of a token, in nats; larger is better", percentage=False, digits=3
)


def register(described: Trials) -> Trials:
    """Adds a modality to this process, and returns it.

    Raises:
        DataError: The name, or the key of its trials, is another's already.
    """
    for other in registered().values():
        if other != described and (described.modality == other.modality or described.key == other.key):
            raise DataError(
                f"expected a modality with a name and a key of trials of its own, found {described.modality!r} with "
                f"{described.key!r}, which {other.modality!r} has ({other.key!r}); choose others"
            )
    registered()[described.modality] = described
    return described


@cache
def registered() -> dict[str, Trials]:
    """Every modality that is known, by name."""
    found = []
    for entry in pkgutil.iter_modules(evaluations.__path__, "evaluations."):
        module = f"{entry.name}.trials"
        if entry.ispkg and module != __name__ and importlib.util.find_spec(module):
            found.append(importlib.import_module(module).TRIALS)
    for one in brought(GROUP):
        if isinstance(one.thing, Trials):
            found.append(one.thing)
        else:
            one.leave_out(f"expected a Trials, found {one.thing!r}")
    return {described.modality: described for described in found}


def described(modality: str) -> Trials:
    """The trials of a modality.

    Raises:
        UnknownNameError: There is no such modality.
    """
    everyone = registered()
    if modality not in everyone:
        raise UnknownNameError(
            f"Unknown modality {modality!r}. {did_you_mean(modality, everyone)} A package that has it registers it by "
            f"an entry point of the group {GROUP}."
        )
    return everyone[modality]


def known(row: Row) -> Trials | None:
    """What a row's trials are; None where nothing describes them."""
    everyone = registered()
    named = everyone.get(row.get("identity", {}).get("modality"))
    return named or next((trials for trials in everyone.values() if trials.key in row), None)


def of(row: Row) -> Trials:
    """What a row's trials are; rows of releases that did not name their modality are told by the key of their trials.

    Raises:
        DataError: Nothing that is known describes them.
    """
    found = known(row)
    if found is None:
        raise DataError(
            f"expected a row of {' or '.join(registered())}, found {row['identity'].get('modality')!r} with the keys "
            f"{', '.join(row)}; install the package that describes it (entry points of the group {GROUP})"
        )
    return found


def trials(row: Row) -> list[Trial]:
    """What the score of a row is the mean of."""
    return row[of(row).key]


def trial_id(row: Row, trial: Trial) -> Any:
    """What two policies share when they are given the same trial."""
    return trial[of(row).identity]


def document_of(row: Row, trial: Trial) -> Any:
    """What a trial is about, which others of its task may be about as well; None where it is not known."""
    return trial.get(of(row).document)


def several(rows: Sequence[Row]) -> list[Trials]:
    """The modalities of some rows, each once."""
    found: Mapping[str, Trials] = {trials.modality: trials for trials in map(of, rows)}
    return list(found.values())
