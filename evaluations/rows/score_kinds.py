"""One kind of score for all rows of a target: a success rate, or a return.

Some environments speak of success only in the step that reaches the goal. Then an episode that never reaches it says
nothing, and neither does the whole row of a policy that never does. So the kind is a matter of the target: once an
episode of it has told of success, an episode that never told has failed, in every row, also in those written before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from evaluations.rows.file import Row, Trial

ScoreKind = Literal["auto", "success", "return"]
SUCCESS_RATE = "success rate"


def settled(rows: Iterable[Row]) -> list[Row]:
    """Of these rows those that need another score, with it.

    Args:
        rows: All of an experiment; a row whose identity says which kind of score was asked for keeps it.
    """
    free = [row for row in rows if "episodes" in row and "score" not in row.get("identity", {})]
    told = {_target(row) for row in free if any(_said(episode) for episode in row["episodes"])}
    return [
        {**as_success_rate(row), "rescored": True}
        for row in free
        if _target(row) in told and not all(_said(episode) for episode in row["episodes"])
    ]


def as_success_rate(row: Row) -> Row:
    """The row with its episodes' success as its score; an episode that never told has failed."""
    unsaid = sum(not _said(episode) for episode in row["episodes"])
    successes = [bool(episode.get("success")) for episode in row["episodes"]]
    rate = sum(successes) / len(successes)
    episodes = [
        {**episode, "success": success, "score": 100.0 * success}
        for episode, success in zip(row["episodes"], successes, strict=True)
    ]
    remark = f"{unsaid} of {len(episodes)} episodes never told of success: they count as failed"
    return {
        **row,
        "score": 100.0 * rate,
        "score_name": SUCCESS_RATE,
        "metrics": {**row["metrics"], "success": rate},
        "episodes": episodes,
        "remarks": [*row.get("remarks", ()), *([remark] if unsaid else [])],
    }


def _said(episode: Trial) -> bool:
    return episode.get("success") is not None


def _target(row: Row) -> tuple[str, str]:
    return row["target"], row["task"]
