"""The generation loop; a run killed anywhere and continued equals one never killed, bit for bit, on any ranks.

It knows nothing of language models: a *fitness* scores candidates (`namm.evolution.scoring`), a *validation* scores the
mean now and then on other data. Every candidate of a generation is scored under the same seed (common random numbers),
which depends on the run's seed and the generation alone. What comes out is the mean with the best validation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import CheckpointError, ConfigError, NammError
from namm.evolution.checkpoint import STATE_FILE, held, load_state, save_state
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.history import HISTORY_FILE, append_row, plain, rewind
from namm.evolution.noise import Noise
from namm.evolution.ranks import Ranks
from namm.evolution.scoring import (
    Fitness,
    FitnessReport,
    Validation,
    ValidationReport,
    generation_seed,
    score_population,
)
from namm.evolution.search import SearchConfig
from namm.evolution.stopping import stop_signals
from namm.files import write_atomically

FLAT = 5
"""Generations in a row in which all candidates may score the same; a search then walks at random."""

__all__ = [
    "Callback",
    "EvolutionConfig",
    "EvolutionResult",
    "Fitness",
    "FitnessReport",
    "Validation",
    "ValidationReport",
    "evolve",
    "generation_seed",
]


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
    stage_ends: tuple[int, ...] = ()
    """Generations after which the fitness is another one: the search goes on, the best validation starts anew."""
    part: int | None = 8
    """Candidates scored in one call, which is also what ranks share out; None for all. It decides the last bits."""
    noise_every: int = 4
    """Generations between measurements of the fitness noise; 0 for none."""
    noise_candidates: int = 4
    """Candidates that such a measurement scores a second time, under another seed."""
    search: SearchConfig = field(default_factory=CMAESConfig)
    """The search itself."""

    def __post_init__(self) -> None:
        for name in ("generations", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Evolution {name}: expected at least 1, found {getattr(self, name)}; raise it.")
        for name, fine, expected in (
            ("seed", self.seed >= 0, "0 or more"),
            ("part", self.part is None or self.part >= 1, "None or at least 1"),
            ("noise_every", self.noise_every >= 0, "0 or more"),
            ("noise_candidates", 2 <= self.noise_candidates <= self.search.population, "2 to the population"),
            (
                "stage_ends",
                list(self.stage_ends) == sorted({*self.stage_ends}) and all(end > 0 for end in self.stage_ends),
                "generations in increasing order",
            ),
        ):
            if not fine:
                raise ConfigError(f"Evolution {name}: expected {expected}, found {getattr(self, name)}; change it.")

    def stage(self, generation: int) -> int:
        """The stage that a generation belongs to; the first is 1."""
        return 1 + sum(generation > end for end in self.stage_ends)

    def ends_stage(self, generation: int) -> bool:
        """Whether a generation is the last of its stage."""
        return generation in (*self.stage_ends, self.generations)


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


Callback = Callable[[Mapping[str, Any], EvolutionResult], None]
"""Gets each generation's row and where the run stands, once both are recorded: a display, a mirror to W&B."""


def evolve(
    fitness: Fitness,
    start: Float[Tensor, " params"],
    config: EvolutionConfig,
    folder: Path | str,
    *,
    validate: Validation | None = None,
    callback: Callback | None = None,
    ranks: Ranks | None = None,
) -> EvolutionResult:
    """Runs an evolution to its last generation, from the folder's checkpoint if it has one.

    SIGTERM and Ctrl-C let the running generation finish and be saved; a second one stops at once, at the cost of that
    generation. A candidate for which `fitness` raises has failed; what `validate` or `callback` raise ends the run, and
    the folder stays resumable.

    Args:
        fitness: Scores float32 candidates.
        start: First mean.
        config: Search, length, seed.
        folder: Gets config.json, history.jsonl, state.json and one safetensors file; made if missing.
        validate: Scores the mean every `validate_every` generations and at the end of each stage, on the leading rank.
        callback: Sees each row after it was recorded, on the leading rank.
        ranks: Processes that score together; each calls this with the same arguments, only the leader's folder and
            start count.

    Returns:
        The last and the best mean.

    Raises:
        CheckpointError: The folder cannot be written, or what it holds is damaged; nothing there was changed.
        ConfigError: The folder holds a run with other settings, or another process evolves there.
        NammError: Every candidate of a generation failed, or all scored the same in `FLAT` generations in a row, or in
            every generation of the run.
        KeyboardInterrupt: SIGTERM or Ctrl-C; the state is saved and the same call continues.
    """
    ranks = ranks or Ranks()
    with held(Path(folder)) if ranks.leads else contextlib.nullcontext(), stop_signals() as stopped:
        run = _Run(start, config, Path(folder), ranks)
        stop = False
        while run.search.generation < config.generations and not stop:
            row, stop = run.generation(fitness, validate, lambda: bool(stopped))
            stop = stop or (bool(stopped) and ranks.size == 1)
            if stop:
                run.save()
            if callback is not None and ranks.leads:
                callback(row, run.result())
    if stop:
        raise KeyboardInterrupt(
            f"evolution stopped by {stopped[0] if stopped else 'another rank'} after generation "
            f"{run.search.generation} of {config.generations}; saved in {folder}, the same command continues"
        )
    return run.result()


class _Run:
    """An evolution bound to its folder."""

    def __init__(self, start: Float[Tensor, " params"], config: EvolutionConfig, folder: Path, ranks: Ranks) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        start = ranks.from_leader({"start": start}, None)[0]["start"]
        self.search = config.search.make(start, config.seed)
        self.best_mean = self.search.mean.clone()
        self._saved_at = -1
        self.best: dict[str, Any] = {"score": None, "generation": 0}
        self.noise = Noise()
        self.flat = 0
        settings = plain(dataclasses.asdict(config))
        self.settings = {
            "search": config.search.kind,
            **{f"search.{name}": value for name, value in settings.pop("search").items()},
            **settings,
            "start_sha256": hashlib.sha256(self.search.mean.numpy().tobytes()).hexdigest(),
        }
        tensors, scalars = ranks.from_leader(*(self._saved() if ranks.leads else ({}, None)))
        if scalars is not None:
            self._resume(tensors, scalars)
        if ranks.leads:
            resolved = json.dumps(dataclasses.asdict(config), indent=1) + "\n"
            write_atomically(folder / "config.json", resolved.encode())
        self.save()

    def generation(
        self, fitness: Fitness, validate: Validation | None, stopping: Callable[[], bool]
    ) -> tuple[dict[str, Any], bool]:
        """Does one generation, records it, saves it when it is time; its row, and whether a rank was asked to stop."""
        began = time.perf_counter()
        config, generation = self.config, self.search.generation + 1
        if generation - 1 in config.stage_ends:
            self.best = {"score": None, "generation": 0}
        seed = generation_seed(config.seed, generation)
        candidates, before = self.search.ask(), self.search.mean
        scores = score_population(
            fitness,
            candidates.float(),
            generation,
            (seed, generation_seed(config.seed, generation, again=True)),
            part=config.part,
            again=config.noise_candidates if self._noise_is_due(generation) else 0,
            ranks=self.ranks,
            stopping=stopping,
        )
        flat = self._flat_so_far(scores.fitness, generation)
        failed = self.search.tell(candidates, scores.fitness)
        self.flat = flat
        self.noise = self.noise.measured(scores.fitness[: len(scores.again)], scores.again)
        alive = scores.fitness[torch.isfinite(scores.fitness)]
        row: dict[str, Any] = {
            "generation": generation,
            "stage": config.stage(generation),
            "seed": seed,
            "fitness": {"mean": alive.mean(), "max": alive.max(), "min": alive.min(), "std": alive.std(correction=0)},
            "failed": failed,
            "flat": flat,
            "errors": scores.errors,
            "noise": self.noise.report(scores.fitness),
            "search": {**self.search.report(), "step_norm": (self.search.mean - before).norm()},
            "extras": scores.extras,
            "validation": None,
        }
        due = config.ends_stage(generation) or generation % config.validate_every == 0
        if validate is not None and due and self.ranks.leads:
            validation = validate(self.search.mean.float(), generation)
            score = float(validation.score)
            if np.isfinite(score) and (self.best["score"] is None or score > self.best["score"]):
                self.best = {"score": score, "generation": generation}
                self.best_mean = self.search.mean.clone()
            row["validation"] = {"score": score, "extras": validation.extras, "best": self.best["score"]}
        row["seconds"] = time.perf_counter() - began
        row = plain(row)
        if self.ranks.leads:
            append_row(self.folder, row)
        if config.ends_stage(generation) or generation % config.checkpoint_every == 0:
            self.save()
        return row, scores.stop

    def _flat_so_far(self, fitness: Float[Tensor, " population"], generation: int) -> int:
        """Generations up to this one in which all candidates scored the same.

        Raises:
            NammError: There were too many; nothing of this generation was recorded.
        """
        largest, least = float(fitness.max()), float(fitness.min())  # a candidate that failed is another score
        same = len(fitness) > 1 and np.isfinite(least) and largest - least <= 1e-9 * max(1.0, abs(largest))
        flat = self.flat + 1 if same else 0
        if flat >= FLAT or (flat > 0 and flat == generation == self.config.generations):
            raise NammError(
                f"Expected candidates of different fitness, found all {len(fitness)} at {largest:+.4f} in "
                f"{flat} generations in a row up to {generation}: nothing can be learned from that. Either nothing is "
                "ever forgotten (contexts shorter than the interval, sigma too small), or the model answers nothing "
                "right even with its full cache; change the task, the interval or sigma."
            )
        return flat

    def _noise_is_due(self, generation: int) -> bool:
        every = self.config.noise_every
        return every > 0 and (generation - 1) % every == 0

    def result(self) -> EvolutionResult:
        """Where it stands now."""
        return _result(self.search.mean, self.best_mean, self.best, self.search.generation)

    def save(self) -> None:
        """Saves the generation that was finished last, unless that was done; the leader's business."""
        if self._saved_at == self.search.generation or not self.ranks.leads:
            return
        state = self.search.state_dict()
        tensors = {f"search.{name}": tensor for name, tensor in state["tensors"].items()}
        scalars = {
            "search": state["scalars"],
            "best": self.best,
            "noise": dataclasses.asdict(self.noise),
            "flat": self.flat,
            "settings": self.settings,
        }
        save_state(self.folder, self.search.generation, {**tensors, "best_mean": self.best_mean}, scalars)
        self._saved_at = self.search.generation

    def _saved(self) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """What the folder holds, checked and cut back to its last checkpoint; nothing for a new run."""
        if not (self.folder / STATE_FILE).exists():
            if (self.folder / HISTORY_FILE).exists():
                raise CheckpointError(
                    f"{self.folder}: expected {STATE_FILE} beside {HISTORY_FILE}, found none; restore it, or start "
                    "elsewhere."
                )
            return {}, None
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
        rewind(self.folder, scalars["search"]["generation"])
        return tensors, scalars

    def _resume(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        prefix = "search."
        search = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.search.load_state_dict({"tensors": search, "scalars": scalars["search"]})
        self.best_mean, self.best = tensors["best_mean"].clone(), scalars["best"]
        self.noise = Noise(**scalars["noise"])
        self.flat = int(scalars.get("flat", 0))
        self._saved_at = self.search.generation


def _result(mean: Tensor, best_mean: Tensor, best: Mapping[str, Any], generation: int) -> EvolutionResult:
    if best["score"] is None:
        return EvolutionResult(mean.float(), mean.float(), None, generation, generation)
    return EvolutionResult(mean.float(), best_mean.float(), best["score"], best["generation"], generation)
