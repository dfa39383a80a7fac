"""One kind of score for all rows of a target: a success rate, or something else.

Some environments speak of success only in the step that reaches the goal. Then a trial that never reaches it says
nothing, and neither does the whole row of a policy that never does. So the kind is a matter of the target: once a
trial of it has told of success, a trial that never told has failed, in every row, also in those written before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from evaluations.rows.file import Row, Trial
from evaluations.rows.trials import Score, Trials, known

ScoreKind = Literal["auto", "success", "return"]


def settled(rows: Iterable[Row]) -> list[Row]:
    """Of these rows those that need another score, with it.

    Args:
        rows: All of an experiment; a row whose identity says which kind of score was asked for keeps it, and so does
            one of a modality whose trials do not tell of success.
    """
    described = [(row, known(row)) for row in rows if "score" not in row.get("identity", {})]
    free = [(row, trials) for row, trials in described if trials is not None and trials.success]
    told = {_target(row) for row, trials in free if any(_said(trials, trial) for trial in row[trials.key])}
    return [
        {**as_success_rate(row, trials), "rescored": True}
        for row, trials in free
        if _target(row) in told and not all(_said(trials, trial) for trial in row[trials.key])
    ]


def as_success_rate(row: Row, trials: Trials) -> Row:
    """The row with its trials' success as its score; a trial that never told has failed.

    Args:
        row: Or its content.
        trials: Of its modality, whose trials may tell of success.
    """
    kind = trials.success
    assert isinstance(kind, Score)
    played = row[trials.key]
    unsaid = sum(not _said(trials, trial) for trial in played)
    successes = [bool(trial.get(kind.value)) for trial in played]
    rate = sum(successes) / len(successes)
    remark = f"{unsaid} of {len(played)} {trials.plural} never told of success: they count as failed"
    return {
        **row,
        "score": 100.0 * rate,
        "score_name": kind.name,
        "metrics": {**row["metrics"], kind.value: rate},
        trials.key: [
            {**trial, kind.value: success, "score": 100.0 * success}
            for trial, success in zip(played, successes, strict=True)
        ],
        "remarks": [*row.get("remarks", ()), *([remark] if unsaid else [])],
    }


def _said(trials: Trials, trial: Trial) -> bool:
    key = None if trials.success is None else trials.success.value
    return key is not None and trial.get(key) is not None


def _target(row: Row) -> tuple[str, str]:
    return row["target"], row["task"]
