"""A Weights & Biases mirror of an evolution: history.jsonl is the truth, and nothing here can stop an evolution.

Each generation is logged over `evolution/generation`, never by W&B's own step. A run that continues goes on under its
id where W&B is online. Offline a second run of one id would begin anew, so a continued run becomes a new part of the
same group, which repeats the history from its first generation: the last part is always whole. NAMMs are artifacts,
named by what they compute: the runs that evaluate one use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from evaluations.boards.artifacts import checkpoint_artifact
from evaluations.boards.wandb_package import LEAN, Mode, open_wandb, project, reason, under_free_id
from evaluations.boards.wandb_runs import SYNCED
from evaluations.evolution.series import AXIS, numbers
from evaluations.rows.identity import experiment_identity
from namm import NAMM
from namm.files import write_atomically


class EvolutionTracker:
    """Mirrors one evolution, as a context.

    Args:
        mode: "online", "offline", "disabled", or "auto": online where somebody is logged in, else offline.
        folder: Of the run; `tracked.json` there remembers the W&B run.
        config: The resolved configuration.
        history: Rows that are there already.
        anew: Forget earlier runs and make a whole one, in `synced` where it stays offline; the history is logged by
            whoever replays it.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        config: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        anew: bool = False,
    ) -> None:
        self.folder, self.config, self.history, self._anew = folder, config, history, anew
        self.mode: Mode
        self._wandb, self.mode, self.notice = open_wandb(mode)
        self._path = folder / "tracked.json"
        self._run: Any = None

    def __enter__(self) -> Self:
        if self._wandb is None:
            return self
        try:
            self._start()
        except Exception as error:
            if self.mode != "online":
                self._give_up(error)
                return self
            self.mode = "offline"
            self._tell(
                f"W&B could not be reached ({reason(error)}); this run is kept offline, wandb sync uploads it later."
            )
            self._wandb.teardown()  # forgets the run that did not come about, whose id this one has
            self._guard(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            code = 0 if kind is None or issubclass(kind, KeyboardInterrupt) else 1
            self._guard(lambda: self._run.finish(exit_code=code))

    def log(self, row: Mapping[str, Any], picture: Path | None = None) -> None:
        """Logs one generation, with a picture where there is a new one."""
        if self._run is None:
            return
        content: dict[str, Any] = numbers(row)
        if picture is not None:
            content["evolution/retention"] = self._package.Image(str(picture))
        self._guard(lambda: self._run.log(content))
        self._guard(lambda: self._note(row["generation"]))

    def log_namm(self, folder: Path, generation: int | None, aliases: Sequence[str], score: float | None) -> None:
        """Logs a NAMM as an artifact.

        Args:
            folder: With its two files.
            generation: After which it was the mean, where that is known.
            aliases: Such as "best-validation".
            score: On validation.
        """
        if self._run is None:
            return

        def log() -> None:
            facts = {"generation": generation, "validation": score}
            digest = NAMM.from_pretrained(folder).sha256()
            artifact = checkpoint_artifact(self._package, "namm", digest, folder, facts)
            when = [] if generation is None else [f"generation-{generation:04d}"]
            self._run.log_artifact(artifact, aliases=[*when, *aliases])

        self._guard(log)

    @property
    def active(self) -> bool:
        """False where nothing is mirrored, or no longer."""
        return self._run is not None

    @property
    def run_folder(self) -> Path | None:
        """Where the run lies on this machine."""
        return None if self._run is None else Path(self._run.dir).parent

    @property
    def _package(self) -> ModuleType:
        """W&B, asked only where something is mirrored."""
        assert self._wandb is not None
        return self._wandb

    def _start(self) -> None:
        known = {} if self._anew else _load(self._path)
        again = self.mode == "online" and known.get("mode") == "online"
        part = known.get("part", 1) if again else known.get("part", 0) + 1
        root = known.get("root") or experiment_identity(self.folder)
        first = known["id"] if again else root if part == 1 else f"{root}-part{part}"
        label = self.folder.resolve().name
        options: dict[str, Any] = {
            "resume": "allow" if self.mode == "online" and not self._anew else None,
            "project": project(),
            "group": label,
            "job_type": "evolve",
            "name": label if part == 1 or again else f"{label} part {part}",
            "config": _without_dots({**self.config, "resumed_from": None if again else known.get("id")}),
            "dir": str(self.folder / SYNCED if self._anew else self.folder),
            "mode": self.mode,
            "reinit": "create_new",
            "settings": self._package.Settings(**LEAN),
        }
        self._run = under_free_id(lambda name: self._package.init(id=name, **options), first, self._tell)
        self._run.define_metric(AXIS, hidden=True)
        self._run.define_metric("evolution/*", step_metric=AXIS)
        for metric in ("evolution/validation", "evolution/fitness_mean"):
            self._run.define_metric(metric, step_metric=AXIS, summary="max")
        self._known = {"root": root, "id": self._run.id, "part": part, "mode": self.mode}
        done = known.get("generation", 0) if again and self._run.id == known["id"] else 0
        for row in self.history:
            if row["generation"] > done:
                self._run.log(numbers(row))
        self._note(max(done, len(self.history)))

    def _note(self, generation: int) -> None:
        write_atomically(self._path, json.dumps({**self._known, "generation": generation}) + "\n")

    def _guard(self, work: Any) -> None:
        """Whatever W&B has against it costs the mirror, not the evolution."""
        try:
            work()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._tell(f"W&B is given up ({reason(error)}); history.jsonl has everything.")
        self._run = None

    def _tell(self, line: str) -> None:
        self.notice = line


def _load(path: Path) -> dict[str, Any]:
    """The note of an earlier process; a damaged one only means a new run."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_dots(value: Any) -> Any:
    """The configuration as W&B takes it: plain values, no dots in keys."""
    if isinstance(value, Mapping):
        return {str(key).replace(".", "_"): _without_dots(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_dots(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
