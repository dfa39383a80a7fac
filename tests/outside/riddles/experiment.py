"""Riddles asked under several policies at equal memory: what is played, how, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console

from evaluations.boards.panels import Board, Number, Panel
from evaluations.boards.wandb_runs import Tracker
from evaluations.experiment.contract import FinishedRows, Media, Size, Unit
from evaluations.experiment.names import NamedPolicy, named, rivals
from evaluations.experiment.play import play
from evaluations.report.page import Page, Report, targets, write_report
from evaluations.report.sections import comparison, frame, target
from evaluations.rows.file import Row
from evaluations.rows.results import Cell, Results
from modalities import attach
from riddles.model import ASK, KEYS, VALUES, LookupMachine
from riddles.trials import TRIALS

TOKENS = 96
INTERVAL = 16
BOARD = Board(
    sections=(("Riddles", (Panel("Right or wrong", "trials", ("riddle/score",), "riddle/index", y_title="score"),)),),
    numbers=(Number("key_held", "key held %", digits=0, factor=100),),
    dataset=lambda row, settings: "drawn",
)
"""What the dashboards show of riddles, beside what they show of everything."""


@dataclass(frozen=True)
class RiddlePlan:
    """Every policy, the full cache first."""

    target: str
    policies: tuple[NamedPolicy, ...]
    seeds: tuple[int, ...]
    budget: int

    def main(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        full = Unit(self.target, NamedPolicy.of("full"), self.seeds, "reference")
        others = [Unit(self.target, spec, self.seeds, "given", Size(budget=self.budget)) for spec in self.policies]
        return [full, *others], True

    def points(self, rows: FinishedRows) -> tuple[list[Unit], bool]:
        return [], True

    def most_cells(self) -> int:
        return (1 + len(self.policies)) * len(self.seeds)


class RiddleRunner:
    """Asks the riddles of a seed."""

    modality: ClassVar[str] = TRIALS.modality

    def __init__(self, riddles: int) -> None:
        self.model, self.riddles = LookupMachine(), riddles

    def cell(self, unit: Unit, seed: int, versions: Mapping[str, str]) -> Cell:
        identity = {"modality": TRIALS.modality, "interval": INTERVAL, "budget": unit.budget, "riddles": self.riddles}
        return Cell(unit.target, "lookup", unit.spec.label, seed, identity | {"torch": versions["torch"]})

    def run(self, unit: Unit, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        return [self._content(unit, cell.seed) for cell in cells]

    def _content(self, unit: Unit, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        stories = torch.randint(KEYS * VALUES, (self.riddles // 2, TOKENS), generator=generator)
        asked = torch.randint(TOKENS - INTERVAL, (self.riddles,), generator=generator)
        told = stories.repeat_interleave(2, dim=0)  # two riddles a story
        keys = told[torch.arange(self.riddles), asked] // VALUES
        with attach(self.model, unit.spec.make(interval=INTERVAL, budget=unit.budget)) as memory:
            self.model(told)
            report, held = memory.report(), memory.kept_positions(0)[:, 0]
            answers = self.model(ASK + keys[:, None])[:, 0].argmax(dim=-1)
        played = []
        for number in range(self.riddles):
            right = {int(token) % VALUES for token in told[number] if int(token) // VALUES == int(keys[number])}
            places = [int(place) for place in held[number] if place >= 0]
            score = 100.0 * (int(answers[number]) in right)  # a key may have been told several values
            kept = any(int(told[number, place]) // VALUES == int(keys[number]) for place in places)
            story = f"{seed}-{number // 2}"
            played.append({"number": number, "story": story, "score": score, "slots": len(places), "kept": kept})
        slots = float(np.mean([trial["slots"] for trial in played]))
        return {
            "score": float(np.mean([trial["score"] for trial in played])),
            "score_name": "riddles solved",
            "metrics": {
                "slots_mean": slots,
                "kept_fraction": slots / TOKENS,
                "bytes_mean": report.cache_bytes / self.riddles,
                "bytes_peak": report.peak_cache_bytes / self.riddles,
                "evicted": float(TOKENS - slots),
                "key_held": float(np.mean([trial["kept"] for trial in played])),
            },
            "riddles": played,
            "memory": {"asked_to_evict": not unit.spec.is_reference, **unit.facts()},
            "trace": None,
            "seconds": 0.1,
        }


@dataclass(frozen=True)
class RiddleSetup:
    """What a worker process loads."""

    riddles: int = 12
    threads: int = 1

    def load(self, index: int = 0) -> dict[str, RiddleRunner]:
        return {"lookup machine": RiddleRunner(self.riddles)}


def run(out: Path, policies: Sequence[str], workers: int = 1) -> list[Row]:
    """Asks every policy, writes rows and a report into a folder and returns the rows."""
    setup = RiddleSetup()
    runners = setup.load()
    plans = [RiddlePlan(name, named(policies, rivals()), (0, 1), budget=20) for name in runners]
    results, console = Results(out), Console(quiet=True)
    with Tracker("disabled", out) as tracker:
        rows = play(plans, runners, setup, workers, results, tracker, console, lambda unit, rows: Media()) or []
    write_report(
        out / "report.html", rows, Page("Riddles", reading=("A riddle asks what a key stands for.",)), SECTIONS
    )
    return rows


def opening(report: Report) -> str:
    """Title, and how much is shown."""
    return frame.header(
        report, "A machine that looks things up.", [("policies", len({r["policy"] for r in report.rows}))]
    )


def every_target(report: Report) -> str:
    """Scores and sizes."""
    return targets(report, (target.scores, target.memory))


SECTIONS = (opening, comparison.overview, every_target, frame.making)
