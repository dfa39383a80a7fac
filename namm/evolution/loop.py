"""The generation loop; a run killed anywhere and continued equals one never killed, bit for bit.

It knows nothing of language models: a *fitness* scores a whole population at once, a *validation* scores the mean now
and then on other data. Every candidate of a generation is scored under the same seed (common random numbers), which
depends on the run's seed and the generation alone. What comes out is the mean with the best validation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import CheckpointError, ConfigError
from namm.evolution.checkpoint import STATE_FILE, load_state, save_state, write_atomically
from namm.evolution.history import HISTORY_FILE, append_row, plain, rewind
from namm.evolution.rates import CMAESConfig
from namm.evolution.search import SearchConfig


@dataclass(frozen=True)
class EvolutionConfig:
    """One evolution, apart from what it is evolved on."""

    generations: int = 300
    """Generations in all; a finished run continues when this is raised."""
    seed: int = 0
    """Seed of the candidates and of every generation's fitness."""
    validate_every: int = 10
    """Generations between validations of the mean; the last generation is always validated."""
    checkpoint_every: int = 1
    """Generations between checkpoints; raise it for a full covariance of thousands of parameters."""
    search: SearchConfig = field(default_factory=CMAESConfig)
    """The search itself."""

    def __post_init__(self) -> None:
        for name in ("generations", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Evolution {name}: expected at least 1, found {getattr(self, name)}; raise it.")
        if self.seed < 0:
            raise ConfigError(f"Evolution seed: expected 0 or more, found {self.seed}; choose another.")


@dataclass(frozen=True)
class FitnessReport:
    """What one generation's evaluation gives back."""

    fitness: Float[Tensor, " population"]
    """One number a candidate, larger is better; -inf or NaN for a candidate that failed."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Anything else for the generation's row: numbers, strings, lists, tensors."""


@dataclass(frozen=True)
class ValidationReport:
    """What a validation of the mean gives back."""

    score: float
    """Larger is better; chooses the mean that is deployed."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Anything else for the generation's row."""


Fitness = Callable[[Float[Tensor, "population params"], int, int], FitnessReport]
"""Scores float32 candidates in a generation (second argument) on what a seed (third) draws, equal for all."""

Validation = Callable[[Float[Tensor, " params"], int], ValidationReport]
"""Scores the float32 mean after a generation, on data that no fitness has seen."""

Callback = Callable[[Mapping[str, Any]], None]
"""Gets each generation's row once it is recorded: a progress display, a mirror to W&B."""


@dataclass(frozen=True)
class EvolutionResult:
    """Where an evolution stands."""

    mean: Float[Tensor, " params"]
    """Mean of the last generation, float32."""
    best_mean: Float[Tensor, " params"]
    """Mean with the best validation, float32; the last mean when nothing was validated. This is what is deployed."""
    best_score: float | None
    """Its validation score; None when nothing was validated."""
    best_generation: int
    """The generation after which it was the mean."""
    generation: int
    """Generations done."""

    @staticmethod
    def load(folder: Path | str) -> EvolutionResult:
        """Reads the result from a run's folder.

        Raises:
            CheckpointError: There is no run, or its checkpoint is damaged.
        """
        tensors, scalars = load_state(Path(folder))
        generation = scalars["search"]["generation"]
        return _result(tensors["search.mean"], tensors["best_mean"], scalars["best"], generation)


def generation_seed(seed: int, generation: int) -> int:
    """The seed, below 2^63, under which every candidate of a generation is scored."""
    return int(np.random.SeedSequence([seed, generation]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def evolve(
    fitness: Fitness,
    start: Float[Tensor, " params"],
    config: EvolutionConfig,
    folder: Path | str,
    *,
    validate: Validation | None = None,
    callback: Callback | None = None,
) -> EvolutionResult:
    """Runs an evolution to its last generation, from the folder's checkpoint if it has one.

    SIGTERM and Ctrl-C let the running generation finish and be saved; a second one stops at once, at the cost of that
    generation. What `fitness`, `validate` or `callback` raise ends the run; the folder stays resumable.

    Args:
        fitness: Scores a population of float32 candidates.
        start: First mean.
        config: Search, length, seed.
        folder: Gets config.json, history.jsonl, state.json and one safetensors file; made if missing.
        validate: Scores the mean every `validate_every` generations.
        callback: Sees each row after it was recorded.

    Returns:
        The last and the best mean.

    Raises:
        CheckpointError: The folder cannot be written, or what it holds is damaged; nothing there was changed.
        ConfigError: The folder holds a run with other settings.
        NammError: Every candidate of a generation failed.
        KeyboardInterrupt: SIGTERM or Ctrl-C; the state is saved and the same call continues.
    """
    run = _Run(start, config, Path(folder))
    with _stop_signals() as stopped:
        while run.search.generation < config.generations:
            row = run.generation(fitness, validate)
            if stopped:
                run.save()
            if callback is not None:
                callback(row)
            if stopped:
                break
    if stopped:
        raise KeyboardInterrupt(
            f"evolution stopped by {stopped[0]} after generation {run.search.generation} of {config.generations}; "
            f"saved in {folder}, the same command continues"
        )
    return run.result()


class _Run:
    """An evolution bound to its folder."""

    def __init__(self, start: Float[Tensor, " params"], config: EvolutionConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.search = config.search.make(start, config.seed)
        self.best_mean = self.search.mean.clone()
        self._saved_at = -1
        self.best: dict[str, Any] = {"score": None, "generation": 0}
        settings = plain(dataclasses.asdict(config))
        self.settings = {
            "search": config.search.kind,
            **{f"search.{name}": value for name, value in settings.pop("search").items()},
            **settings,
            "start_sha256": hashlib.sha256(self.search.mean.numpy().tobytes()).hexdigest(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"Expected a folder that can be written at {folder}, found: {error.strerror or error}; choose another."
            ) from error
        if (folder / STATE_FILE).exists():
            self._resume()
        elif (folder / HISTORY_FILE).exists():
            raise CheckpointError(
                f"{folder}: expected {STATE_FILE} beside {HISTORY_FILE}, found none; restore it, or start elsewhere."
            )
        resolved = json.dumps(dataclasses.asdict(config), indent=1) + "\n"
        write_atomically(folder / "config.json", resolved.encode())
        self.save()

    def generation(self, fitness: Fitness, validate: Validation | None) -> dict[str, Any]:
        """Does one generation, records it, saves it when it is time, and gives its row."""
        began = time.perf_counter()
        generation = self.search.generation + 1
        seed = generation_seed(self.config.seed, generation)
        candidates, before = self.search.ask(), self.search.mean
        report = fitness(candidates.float(), generation, seed)
        scores = report.fitness.detach().to("cpu", torch.float64)
        failed = self.search.tell(candidates, scores)
        alive = scores[torch.isfinite(scores)]
        row: dict[str, Any] = {
            "generation": generation,
            "seed": seed,
            "fitness": {"mean": alive.mean(), "max": alive.max(), "min": alive.min(), "std": alive.std(correction=0)},
            "failed": failed,
            "search": {**self.search.report(), "step_norm": (self.search.mean - before).norm()},
            "extras": report.extras,
            "validation": None,
        }
        last = generation == self.config.generations
        if validate is not None and (last or generation % self.config.validate_every == 0):
            validation = validate(self.search.mean.float(), generation)
            score = float(validation.score)
            if np.isfinite(score) and (self.best["score"] is None or score > self.best["score"]):
                self.best = {"score": score, "generation": generation}
                self.best_mean = self.search.mean.clone()
            row["validation"] = {"score": score, "extras": validation.extras, "best": self.best["score"]}
        row["seconds"] = time.perf_counter() - began
        row = plain(row)
        append_row(self.folder, row)
        if last or generation % self.config.checkpoint_every == 0:
            self.save()
        return row

    def result(self) -> EvolutionResult:
        """Where it stands now."""
        return _result(self.search.mean, self.best_mean, self.best, self.search.generation)

    def save(self) -> None:
        """Saves the generation that was finished last, unless that was done."""
        if self._saved_at == self.search.generation:
            return
        state = self.search.state_dict()
        tensors = {f"search.{name}": tensor for name, tensor in state["tensors"].items()}
        scalars = {"search": state["scalars"], "best": self.best, "settings": self.settings}
        save_state(self.folder, self.search.generation, {**tensors, "best_mean": self.best_mean}, scalars)
        self._saved_at = self.search.generation

    def _resume(self) -> None:
        tensors, scalars = load_state(self.folder)
        saved, mine = scalars.get("settings", {}), self.settings
        # the length may be changed, and how often it is saved changes nothing
        free = {"generations", "checkpoint_every"}
        differ = [name for name in mine if name not in free and saved.get(name) != mine[name]]
        if differ:
            changes = ", ".join(f"{name} {saved.get(name)!r} (now {mine[name]!r})" for name in differ)
            raise ConfigError(
                f"{self.folder}: expected the settings of the run it holds, found others: {changes}; "
                "repeat its settings, or choose another folder."
            )
        prefix = "search."
        search = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.search.load_state_dict({"tensors": search, "scalars": scalars["search"]})
        self.best_mean, self.best = tensors["best_mean"].clone(), scalars["best"]
        self._saved_at = self.search.generation
        rewind(self.folder, self.search.generation)


def _result(mean: Tensor, best_mean: Tensor, best: Mapping[str, Any], generation: int) -> EvolutionResult:
    if best["score"] is None:
        return EvolutionResult(mean.float(), mean.float(), None, generation, generation)
    return EvolutionResult(mean.float(), best_mean.float(), best["score"], best["generation"], generation)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """A list that gets the name of the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt at once."""
    stopped: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped:
            raise KeyboardInterrupt(f"evolution stopped by a second {signal.Signals(number).name}")
        stopped.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stopped
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
