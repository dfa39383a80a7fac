"""Recordings on disk, one file a prompt: made by several processes, kept when one of them is killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from evaluations.evolution.source import load_source
from evaluations.hindsight.recording import Recording, seen_under, worths
from evaluations.tasks.lessons import Course, Lesson, draw_lessons
from modalities.pretrained.tokenizer import read_tokenizer
from namm import NAMM, NAMMConfig
from namm.errors import ConfigError
from namm.files import write_atomically

UPDATES = 5
"""Updates of a prompt that are recorded."""

FACTS = "shelf.json"


@dataclass(frozen=True)
class Shelf:
    """The full-cache recordings of one source."""

    model: str
    """Folder or Hub id of the source."""

    course: Course
    count: int
    """Prompts."""

    seed: int
    folder: Path

    dtype: str = "float32"
    """Of the source's weights and arithmetic; `bfloat16` is some four times faster where the processor has it."""

    def path(self, place: int) -> Path:
        """Where a prompt's recording lies."""
        return self.folder / f"{place:03d}.safetensors"

    def lessons(self) -> list[Lesson]:
        """The prompts, always the same."""
        return draw_lessons(self.course, read_tokenizer(self.model), self.count, self.seed)

    def fill(self, workers: int = 1) -> None:
        """Records what is missing.

        Args:
            workers: Processes, of one thread each.

        Raises:
            ConfigError: The folder holds recordings of other prompts.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        facts, path = json.loads(json.dumps(asdict(self) | {"folder": None, "count": None})), self.folder / FACTS
        if path.exists() and json.loads(path.read_text()) != facts:
            raise ConfigError(
                f"{self.folder} holds recordings of other prompts or another model; choose another folder."
            )
        write_atomically(path, json.dumps(facts, indent=1) + "\n")
        missing = [place for place in range(self.count) if not self.path(place).exists()]
        shares = [missing[number::workers] for number in range(workers)]
        if workers == 1:
            record(self, shares[0])
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in [pool.submit(record, self, share) for share in shares]:
                done.result()

    def recordings(self) -> list[Recording]:
        """All of them, in order."""
        return [Recording.load(self.path(place)) for place in range(self.count)]


def record(shelf: Shelf, places: Sequence[int]) -> None:
    """Records some prompts under the full cache.

    Args:
        shelf: Where they go.
        places: Which.
    """
    if not places:
        return
    torch.set_num_threads(1)
    model, lessons = load_source(shelf.model, getattr(torch, shelf.dtype)), shelf.lessons()
    watcher = NAMM(NAMMConfig())
    for place in places:
        updates, kept = seen_under(model, lessons[place], watcher, "sequence", UPDATES, None)
        worth = worths(model, lessons[place], shelf.course.chunk)
        Recording(worth, shelf.course.chunk, updates, kept).save(shelf.path(place))
