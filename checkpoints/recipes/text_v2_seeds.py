"""What runs of text-v2's recipe have in common: `python checkpoints/recipes/text_v2_seeds.py RUN RUN ...`.

Prints a table with a column a run, from the `card.json` that each left beside its weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from checkpoints.recipes.text_v2_judge import AT_SIZE, EARLIER, OURS
from evaluations.experiment.names import NAMMS
from evaluations.rows.policy_names import with_current_names

Card = Mapping[str, Any]
BESIDE = ("full", "h2o_age", "keydiff")


@dataclass(frozen=True)
class SeedsConfig:
    """Which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the weights, with card.json in each."""


def rows(cards: Sequence[Card]) -> Iterator[list[str]]:
    """Name of each figure, then the figure of every run."""

    def row(name: str, told: Callable[[Card], str]) -> list[str]:
        return [name, *(told(card) for card in cards)]

    yield row("seconds of the stages", lambda card: f"{sum(card['seconds'].values()):,.0f}")
    yield row("stage chosen", lambda card: card["chosen"])
    yield row("validation: fitness, score of full, kept", _validation)
    for tokens, interval in dict.fromkeys((line["context_tokens"], line["interval"]) for line in cards[0]["test"]):
        where = {"context_tokens": tokens, "interval": interval, "task": "all"}
        yield row(f"recall, kept: {tokens} tokens, interval {interval}", lambda card, where=where: _recall(card, where))
        for rival in (EARLIER, AT_SIZE, "keydiff"):
            asked = {**where, "policy": rival}
            yield row(f"minus {rival}: {tokens}, {interval}", lambda card, asked=asked: _lead(card, asked))
    for target in dict.fromkeys(line["target"] for line in cards[0]["control"]):
        for policy in NAMMS:
            yield row(f"{target}, {policy}: score, kept", lambda card, at=(target, policy): _played(card, *at))
        yield row(f"{target}: full, h2o_age and keydiff of its size", lambda card, at=target: _beside(card, at))
        yield row(f"{target}: rivals of its size", lambda card, at=target: _verdicts(card, at))


def _validation(card: Card) -> str:
    reached = card["validation"][card["chosen"]]
    return f"{reached['fitness']:.3f}, {100 * reached['score']:.1f}%, {100 * reached['kept']:.1f}%"


def _line(lines: Sequence[Card], asked: Mapping[str, Any]) -> Card:
    named = (with_current_names(dict(line)) for line in lines)
    return next(line for line in named if all(line[name] == value for name, value in asked.items()))


def _recall(card: Card, where: Mapping[str, Any]) -> str:
    line = _line(card["test"], {**where, "policy": OURS})
    score = line["recall"]
    low, high = 100 * score["low"], 100 * score["high"]
    return f"{100 * score['value']:.1f}% [{low:.1f}, {high:.1f}], {100 * line['kept_fraction']:.1f}%"


def _lead(card: Card, asked: Mapping[str, Any]) -> str:
    lead = _line(card["test"], asked)["ours_minus"]
    return f"{100 * lead['value']:+.1f} [{100 * lead['low']:+.1f}, {100 * lead['high']:+.1f}]"


def _played(card: Card, target: str, policy: str) -> str:
    line = _line(card["control"], {"target": target, "policy": policy})
    return f"{line['score']['value']:.1f}, {100 * line['kept_fraction']:.1f}%"


def _beside(card: Card, target: str) -> str:
    scores = (_line(card["control"], {"target": target, "policy": name})["score"]["value"] for name in BESIDE)
    return ", ".join(f"{score:.1f}" for score in scores)


def _verdicts(card: Card, target: str) -> str:
    """How many rivals the contender is ahead of, behind, or not told apart from."""
    skipped = {*NAMMS, "full", "native_window"}
    tests = [
        line["namm_minus"]
        for line in map(with_current_names, map(dict, card["control"]))
        if line["target"] == target and line["policy"] not in skipped
    ]
    ahead = sum(test["clear"] and test["difference"]["value"] > 0 for test in tests)
    behind = sum(test["clear"] and test["difference"]["value"] < 0 for test in tests)
    return f"ahead of {ahead}, behind {behind}, of {len(tests)}"


def main(config: SeedsConfig) -> None:
    """Prints the table."""
    cards = [json.loads((run / "card.json").read_text("utf-8")) for run in config.runs]
    heads = ["", *(run.name for run in config.runs)]
    for cells in (heads, ["---"] * len(heads), *rows(cards)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    from namm.terminal import any_terminal

    with any_terminal():
        main(tyro.cli(SeedsConfig, description=(__doc__ or "").partition("\n\n")[0]))
