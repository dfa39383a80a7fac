"""A Weights & Biases mirror of finished rows: rows.jsonl is the truth, and nothing here can stop an experiment.

One run per target x policy x seed (evaluations/boards/run_content.py says what it holds). Runs are made from finished
rows, so a resumed experiment mirrors what is new and never twice: `tracked.json` remembers, and should it be lost, a
run made again has the same id. Checkpoints are logged once, as artifacts named by their digest. The machine and its
environment are not told. Offline is the default unless somebody is logged in; `wandb sync FOLDER` uploads later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlparse

from evaluations.boards.run_content import AXES, RunContent, run_content
from evaluations.experiment.contract import Media
from evaluations.rows.results import Row, write_atomically

Mode = Literal["auto", "online", "offline", "disabled"]

PROJECT = "namm-transfer"
CHECKPOINTS = {"namm": "namm_sha256", "decision-transformer": "checkpoint_sha256"}
"""Kinds of checkpoints, and where a row's identity holds the digest."""
CHECKPOINT_FILES = (".safetensors", ".json", ".md")
"""What belongs to a checkpoint; a user's folder may hold a whole training beside it."""
LEAN = {
    "silent": True,
    "init_timeout": 30.0,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""A run is made after the fact, from a row: watching this process says nothing about it, takes time, and tells names of
users and machines. Versions and the git commit are in the row."""


class Tracker:
    """Mirrors rows to W&B, as a context: the run in progress is finished on exit, and marked failed on an error.

    Args:
        mode: "online", "offline", "disabled", or "auto": online where somebody is logged in, else offline.
        folder: The experiment's folder; its name is the experiment's.
        config: The resolved configuration, stored with every run under `experiment`.
        checkpoints: Folder of every checkpoint that rows name by its digest.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, Path] | None = None,
    ) -> None:
        self.folder = folder
        self.config = dict(config or {})
        self.checkpoints = dict(checkpoints or {})
        self.notice = ""
        self._run: Any = None
        self._wandb, self.mode, self.notice = open_wandb(mode)
        self._path = folder / "tracked.json"
        self._tracked = _load(self._path)

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
        """True if every one of these rows has a run already."""
        return not self.active or all(row["key"] in self._tracked for row in rows)

    def mirror(self, rows: Sequence[Row], media: Media | None = None) -> list[str]:
        """Makes a run out of every row that has none.

        Args:
            rows: Finished rows.
            media: Files to show with the one that has a trace.

        Returns:
            Folders of the runs that were made.
        """
        self._tracked |= _load(self._path)  # another process may have mirrored in the meantime
        new = [row for row in rows if not self.is_tracked([row])]
        return [self._mirror(row, media if media and row.get("trace") else Media()) for row in new]

    def _mirror(self, row: Row, media: Media) -> str:
        """One run; where W&B cannot be reached, this and all later ones are kept offline."""
        try:
            return self._made(row, media)
        except self._wandb.errors.Error as error:
            if self.mode != "online":
                raise
            self.mode = "offline"
            reason = str(error).partition("\n")[0]
            self.notice = f"W&B could not be reached ({reason}); runs are kept offline, wandb sync uploads them later."
            self._wandb.teardown()  # forgets the run that did not come about, whose id this one has
            return self._made(row, media)

    def _made(self, row: Row, media: Media) -> str:
        content = run_content(row, self.folder.resolve().name, self.config)
        self._run = self._start(content)
        try:
            folder = str(Path(self._run.dir).parent)
            self._log(content, media)
            self._log_checkpoints(row)
        except BaseException:
            self._finish(exit_code=1)
            raise
        self._finish(exit_code=0)
        self._tracked[row["key"]] = Path(folder).name
        write_atomically(self._path, json.dumps(self._tracked, indent=1) + "\n")
        return folder

    def _start(self, content: RunContent) -> Any:
        options = {
            "id": content.id,
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": content.group,
            "job_type": content.job_type,
            "name": content.name,
            "tags": list(content.tags),
            "config": dict(content.config),
            "dir": str(self.folder),
            "reinit": "create_new",
            "settings": self._wandb.Settings(**LEAN),
        }
        return self._wandb.init(mode=self.mode, **options)

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=exit_code)

    def _log(self, content: RunContent, media: Media) -> None:
        run = self._run
        for section in content.sections:
            axis = AXES[section]
            run.define_metric(axis, hidden=True)
            run.define_metric(f"{section}/*", step_metric=axis)
        for entry in content.history:
            run.log(dict(entry))
        table = self._wandb.Table(list(content.columns), [list(line) for line in content.table])
        shown: dict[str, Any] = {content.table_name: table}
        if media.picture is not None:
            shown["memory"] = self._wandb.Image(str(media.picture))
        if media.video is not None:
            shown["video"] = self._wandb.Video(str(media.video), format="gif")
        if media.html is not None:
            shown["kept"] = self._wandb.Html(str(media.html), inject=False)
        run.log(shown)
        run.summary.update(dict(content.summary))

    def _log_checkpoints(self, row: Row) -> None:
        """The first run that uses a checkpoint logs it; later ones, where W&B is online, say that they use it."""
        for kind, name in CHECKPOINTS.items():
            digest = row["identity"].get(name)
            folder = self.checkpoints.get(digest or "")
            if digest is None or folder is None:
                continue
            artifact = f"{kind}-{digest[:16]}"
            if artifact in self._tracked:
                if self.mode == "online":
                    self._run.use_artifact(f"{artifact}:latest")
                continue
            made = self._wandb.Artifact(artifact, type="model", metadata={"kind": kind, name: digest})
            for path in sorted(folder.iterdir()):
                if path.suffix in CHECKPOINT_FILES:
                    made.add_file(str(path), skip_cache=True)
            self._run.log_artifact(made)
            self._tracked[artifact] = self._run.id


def _load(path: Path) -> dict[str, str]:
    """What was mirrored; a damaged note only means that runs are mirrored again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def open_wandb(mode: Mode) -> tuple[ModuleType | None, str, str]:
    """The package (None: nothing is mirrored), the mode that "auto" means here, and what to tell about it."""
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
