"""A Weights & Biases mirror of finished rows: rows.jsonl is the truth, and nothing here can stop an experiment.

One run per target x policy, grouped under the experiment's name; config keys sit at the top level so that the dashboard
can group by them. Runs are made from finished rows, so a resumed experiment mirrors what is new and never twice
(`tracked.json` remembers). W&B's own step counter is never set: episodes and environment steps are declared as axes.
Offline is the default unless somebody is logged in; `wandb sync FOLDER` uploads later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlparse

from evaluations.harness import Row, write_atomically

Mode = Literal["auto", "online", "offline", "disabled"]

PROJECT = "namm-transfer"
GROUP_KEYS = (
    "modality",
    "policy",
    "env",
    "namm_sha256",
    "statistics",
    "checkpoint_sha256",
    "interval",
    "budget",
    "target_return",
)
"""Settings that go to the top level of a run's config, for the dashboard's group-by."""


@dataclass(frozen=True)
class Media:
    """Files shown beside the numbers of a run: a retention picture (PNG) and a video of one episode (GIF)."""

    picture: Path | None = None
    video: Path | None = None


class Tracker:
    """Mirrors rows to W&B, as a context: the run in progress is finished on exit, and marked failed on an error.

    Args:
        mode: "online", "offline", "disabled", or "auto": online where somebody is logged in, else offline.
        folder: The experiment's folder; its name is the group.
        config: The resolved configuration, stored with every run under `experiment`.
    """

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.config = dict(config or {})
        self.notice = ""
        self._run: Any = None
        self._wandb, self.mode, self.notice = _open(mode)
        self._path = folder / "tracked.json"
        self._tracked: dict[str, str] = _load(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._finish(exit_code=0 if kind is None else 1)

    @property
    def active(self) -> bool:
        """False where nothing is mirrored."""
        return self._wandb is not None

    def is_tracked(self, rows: Sequence[Row]) -> bool:
        """True if a run made of exactly these rows exists already."""
        return not self.active or _identity(rows) in self._tracked

    def mirror(self, rows: Sequence[Row], media: Media | None = None) -> str | None:
        """Makes one run out of the rows (all seeds) of one target and policy.

        Args:
            rows: Finished rows; not mirrored twice.
            media: Files to show beside them.

        Returns:
            The run's folder, or None if nothing was mirrored.
        """
        if not rows or self.is_tracked(rows):
            return None
        row = rows[0]
        self._run = self._start(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self.folder.name,
            job_type="evaluate",
            name=f"{row['target']}-{row['policy']}".replace(" ", "-"),
            tags=[row["identity"].get("modality", "control"), row["policy"], row["target"]],
            config=_config(row, self.config),
        )
        try:
            folder = str(Path(self._run.dir).parent)
            self._log(rows, media or Media())
        except BaseException:
            self._finish(exit_code=1)
            raise
        self._finish(exit_code=0)
        self._tracked[_identity(rows)] = Path(folder).name
        write_atomically(self._path, json.dumps(self._tracked, indent=2) + "\n")
        return folder

    def _start(self, **options: Any) -> Any:
        settings = self._wandb.Settings(silent=True, console="off")
        options |= {"dir": str(self.folder), "reinit": "create_new", "settings": settings}
        try:
            return self._wandb.init(mode=self.mode, **options)
        except self._wandb.errors.Error as error:
            if self.mode != "online":
                raise
            self.mode, self.notice = "offline", f"W&B could not go online ({error}); runs are kept offline."
            return self._wandb.init(mode="offline", **options)

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=exit_code)

    def _log(self, rows: Sequence[Row], media: Media) -> None:
        run = self._run
        run.define_metric("episode/index", hidden=True)
        run.define_metric("episode/*", step_metric="episode/index")
        run.define_metric("cache/env_step", hidden=True)
        run.define_metric("cache/*", step_metric="cache/env_step")
        episodes = [(row, episode) for row in rows for episode in row["episodes"]]
        for index, (_, episode) in enumerate(episodes):
            run.log(
                {f"episode/{name}": value for name, value in episode.items() if value is not None}
                | {"episode/index": index}
            )
        trace = next((row["trace"] for row in rows if row.get("trace")), None)
        if trace:
            for step, slots in zip(trace["steps"], trace["slots"], strict=True):
                run.log({"cache/env_step": step, "cache/slots": slots})
        names = list(dict.fromkeys(name for _, episode in episodes for name in episode))
        table = [[row["seed"], *(episode.get(name) for name in names)] for row, episode in episodes]
        shown: dict[str, Any] = {"episodes": self._wandb.Table(columns=["seed", *names], data=table)}
        if media.picture is not None:
            shown["retention"] = self._wandb.Image(str(media.picture))
        if media.video is not None:
            shown["video"] = self._wandb.Video(str(media.video), format="gif")
        run.log(shown)
        for name, value in summary(rows).items():
            run.summary[name] = value


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Headline numbers of the rows of one target and policy: the mean over seeds of the score and of every metric."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in {"score": row["score"], **row["metrics"]}.items():
            if isinstance(value, (int, float)):
                values.setdefault(name, []).append(float(value))
    return {name: sum(several) / len(several) for name, several in values.items()}


def _identity(rows: Sequence[Row]) -> str:
    return "+".join(sorted(row["key"] for row in rows))


def _config(row: Row, experiment: Mapping[str, Any]) -> dict[str, Any]:
    identity = row["identity"]
    flat = {key: identity.get(key) for key in GROUP_KEYS}
    return {
        **flat,
        "policy": row["policy"],
        "target": row["target"],
        "env": row["task"],
        "versions": row["versions"],
        "identity": dict(identity),
        "experiment": dict(experiment),
    }


def _load(path: Path) -> dict[str, str]:
    """What was mirrored; a damaged note only means that runs are mirrored again."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _open(mode: Mode) -> tuple[ModuleType | None, str, str]:
    if mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return None, "disabled", ""
    try:
        import wandb
    except ImportError:
        return None, "disabled", "W&B is not installed, nothing is mirrored (pip install wandb); rows.jsonl has all."
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_MODE") != "offline" and _logged_in(wandb) else "offline"
    notice = "" if mode == "online" else "W&B runs offline (nobody is logged in or --wandb offline was given)."
    return wandb, mode, notice


def _logged_in(wandb: ModuleType) -> bool:
    """Whether a key lies in the environment or in ~/.netrc, without asking the network or the user."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        from netrc import netrc

        host = urlparse(wandb.setup().settings.base_url).hostname
        return host is not None and netrc().authenticators(host) is not None
    except (OSError, ValueError, AttributeError, ImportError):
        return False
