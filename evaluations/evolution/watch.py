"""Who watches an evolution: the terminal, a live page, pictures of what the mean keeps, W&B, and saved NAMMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from evaluations.evolution.page import write_page
from evaluations.evolution.series import line
from evaluations.evolution.tracking import EvolutionTracker
from namm import NAMM
from namm.evolution.loop import EvolutionConfig, EvolutionResult

PAGE = "live.html"
PICTURES = "pictures"

Draw = Callable[[Float[Tensor, " params"], str, Path], None]
"""Draws what a mean keeps: parameters, title, where to."""


class Watch:
    """The callback of an evolution."""

    def __init__(
        self,
        folder: Path,
        config: EvolutionConfig,
        namm: NAMM,
        tracker: EvolutionTracker,
        draw: Draw,
        pictures_every: int,
        console: Console | None,
    ) -> None:
        """A watch.

        Args:
            folder: Of the run.
            config: Its length and stages.
            namm: Config and statistics of what is saved.
            tracker: Entered.
            draw: Makes a picture.
            pictures_every: Generations between pictures; 0 for none.
            console: Where lines go; None for none.
        """
        self.folder, self.config, self.namm, self.tracker = folder, config, namm, tracker
        self.draw, self.every, self.console = draw, pictures_every, console
        self.rows: list[Mapping[str, Any]] = list(tracker.history)
        self._say(tracker.notice)
        self._said = tracker.notice

    def __call__(self, row: Mapping[str, Any], result: EvolutionResult) -> None:
        """Shows one generation, and saves the best mean where a stage ends."""
        generation = row["generation"]
        self.rows = [*self.rows[: generation - 1], row]
        self._say(line(row))
        picture = self._picture(generation, result)
        self.tracker.log(row, picture)
        if row["validation"] and result.best_generation == generation:
            self.save(result, self.folder / "namm", "best-validation")
        if generation in self.config.stage_ends:
            self.save(result, self.folder / f"stage-{row['stage']}", f"stage-{row['stage']}")
        self.page(running=True)
        if self.tracker.notice != self._said:
            self._said = self.tracker.notice
            self._say(self._said)

    def save(self, result: EvolutionResult, folder: Path, *aliases: str) -> None:
        """Saves the best mean as a NAMM, here and as an artifact."""
        NAMM(self.namm.config, result.best_mean, self.namm.statistics).cpu().save_pretrained(folder)
        self.tracker.log_namm(folder, result.best_generation, aliases, result.best_score)

    def page(self, running: bool) -> None:
        """Draws the live page again."""
        pictures = sorted((self.folder / PICTURES).glob("kept-*.png"))
        picture = pictures[-1] if pictures else None
        title = f"Evolution {self.folder.resolve().name}"
        write_page(self.folder / PAGE, title, self.rows, self.config.generations, picture, running)

    def _picture(self, generation: int, result: EvolutionResult) -> Path | None:
        if not self.every or (generation % self.every and not self.config.ends_stage(generation)):
            return None
        path = self.folder / PICTURES / picture_name(generation)
        path.parent.mkdir(exist_ok=True)
        with torch.inference_mode():
            self.draw(result.mean, f"What the mean keeps after generation {generation}", path)
        return path

    def _say(self, text: str) -> None:
        if self.console is not None and text:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def picture_name(generation: int) -> str:
    """The file of what the mean keeps after a generation."""
    return f"kept-{generation:06d}.png"
