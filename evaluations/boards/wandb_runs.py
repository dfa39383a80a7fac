"""A Weights & Biases mirror of finished rows: rows.jsonl is the truth, and nothing here can stop an experiment.

One run per target x policy x seed (evaluations/boards/run_content.py says what it holds). Runs are made from finished
rows, so a resumed experiment mirrors what is new and never twice: `tracked.json` remembers, and should it be lost, a
run made again has the same id (of the row and of the experiment's identity). Checkpoints are logged once, as artifacts
named by their digest. The machine and its environment are not told. Offline is the default unless somebody is logged
in; `wandb sync FOLDER` uploads later. What W&B refuses costs one line and no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlparse

from evaluations.boards.panels import board_of
from evaluations.boards.run_content import RunContent, run_content
from evaluations.experiment.contract import Media
from evaluations.rows.identity import experiment_identity
from evaluations.rows.results import Row
from evaluations.rows.trials import of
from namm.files import write_atomically

Mode = Literal["auto", "online", "offline", "disabled"]

PROJECT = "namm-transfer"
NAMM_CHECKPOINT = {"namm": "namm_sha256"}
"""A kind of checkpoint, and where a row's identity holds the digest; a modality's board has its own."""
CHECKPOINT_FILES = (".safetensors", ".json", ".md")
"""What belongs to a checkpoint; a user's folder may hold a whole training beside it."""
DELETED = "previously created and deleted"
"""What W&B says of an id whose run was deleted."""
IDS = 5
"""Ids that a run is tried under."""
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
        self.notices: list[str] = []
        self._unsaid = 0
        self._run: Any = None
        self._wandb, self.mode, notice = open_wandb(mode)
        self._tell(notice)
        self._path = folder / "tracked.json"
        self._tracked = _load(self._path)
        self._identity: str | None = None

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

    @property
    def _package(self) -> ModuleType:
        if self._wandb is None:
            raise RuntimeError("expected W&B to be in use, found nothing mirrored; ask `active` first")
        return self._wandb

    @property
    def notice(self) -> str:
        """What there is to tell about the mirror, a line each."""
        return "\n".join(self.notices)

    def unsaid(self) -> list[str]:
        """The lines that have come up since this was last asked."""
        new = self.notices[self._unsaid :]
        self._unsaid = len(self.notices)
        return new

    def is_tracked(self, rows: Sequence[Row]) -> bool:
        """True if every one of these rows has a run already."""
        return not self.active or all(_note(row) in self._tracked for row in rows)

    def mirror(self, rows: Sequence[Row], media: Media | None = None) -> list[str]:
        """Makes a run out of every row that has none; what cannot be mirrored is told, and costs nothing else.

        Args:
            rows: Finished rows.
            media: Files to show with the one that has a trace.

        Returns:
            Folders of the runs that were made.
        """
        self._tracked |= _load(self._path)  # another process may have mirrored in the meantime
        new = [row for row in rows if not self.is_tracked([row])]
        made: list[str] = []
        for row in new:
            shown = media if media and row.get("trace") else Media()
            label = f"{row.get('target')} · {row.get('policy')} · seed {row.get('seed')}"
            self._attempt(label, lambda row=row, shown=shown: made.append(self._made(row, shown)))
        return made

    def _tell(self, line: str) -> None:
        if line and line not in self.notices:
            self.notices.append(line)

    def _attempt(self, what: str, work: Callable[[], object]) -> None:
        """Does a part of the mirror; whatever stops it costs that part and one line."""
        try:
            work()
        except Exception as error:
            self._tell(f"W&B: {what} is not mirrored ({_reason(error)}); rows.jsonl has everything.")

    def _made(self, row: Row, media: Media) -> str:
        if self._identity is None:
            self._identity = experiment_identity(self.folder)
        content = run_content(row, self.folder.resolve().name, self.config, self._identity)
        self._run = self._started(content)
        try:
            folder = str(Path(self._run.dir).parent)
            self._log(content, media)
            self._attempt("a checkpoint", lambda: self._log_checkpoints(row))
        except BaseException:
            self._finish(exit_code=1)
            raise
        self._finish(exit_code=0)
        self._tracked[_note(row)] = Path(folder).name
        text = json.dumps(self._tracked, indent=1) + "\n"
        self._attempt("the note of what is mirrored", lambda: write_atomically(self._path, text))
        return folder

    def _started(self, content: RunContent) -> Any:
        """A run; where W&B cannot be reached, this and all later ones are kept offline."""
        try:
            return self._under_free_id(content)
        except Exception as error:
            if self.mode != "online":
                raise
            self.mode = "offline"
            self._tell(
                f"W&B could not be reached ({_reason(error)}); runs are kept offline, wandb sync uploads them later."
            )
            self._package.teardown()  # forgets the run that did not come about, whose id this one has
            return self._start(content, content.id)

    def _under_free_id(self, content: RunContent) -> Any:
        """W&B never gives an id again whose run was deleted there: the run then gets another, the same each time."""
        for attempt in range(IDS):
            name = content.id if attempt == 0 else f"{content.id}-{attempt + 1}"
            try:
                return self._start(content, name)
            except Exception as error:
                if DELETED not in str(error) or attempt == IDS - 1:
                    raise
                self._tell(f"W&B: a run {name} was deleted there; it is mirrored again under another id.")
        raise AssertionError

    def _start(self, content: RunContent, name: str) -> Any:
        options = {
            "id": name,
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": content.group,
            "job_type": content.job_type,
            "name": content.name,
            "tags": list(content.tags),
            "config": dict(content.config),
            "dir": str(self.folder),
            "reinit": "create_new",
            "settings": self._package.Settings(**LEAN),
        }
        return self._package.init(mode=self.mode, **options)

    def _finish(self, exit_code: int) -> None:
        run, self._run = self._run, None
        self._attempt("the end of a run", lambda: run.finish(exit_code=exit_code))

    def _log(self, content: RunContent, media: Media) -> None:
        """Each part by itself: what one of them holds against W&B must not cost the others."""
        run, wandb = self._run, self._package

        def history() -> None:
            for section in content.sections:
                axis = content.axes[section]
                run.define_metric(axis, hidden=True)
                run.define_metric(f"{section}/*", step_metric=axis)
            for entry in content.history:
                run.log(dict(entry))

        shown: dict[str, Any] = {}

        def show(name: str, path: Path | None, make: Callable[[str], Any]) -> None:
            if path is not None:
                self._attempt(f"{name} of {content.name}", lambda: shown.update({name: make(str(path))}))

        def table() -> None:
            lines = [list(line) for line in content.table]
            shown[content.table_name] = wandb.Table(list(content.columns), lines)

        self._attempt(f"the history of {content.name}", history)
        self._attempt(f"the table of {content.name}", table)
        show("memory", media.picture, wandb.Image)
        show("video", media.video, lambda path: wandb.Video(path, format="gif"))
        show("kept", media.html, lambda path: wandb.Html(path, inject=False))
        self._attempt(f"what is shown of {content.name}", lambda: run.log(shown))
        self._attempt(f"the summary of {content.name}", lambda: run.summary.update(dict(content.summary)))

    def _log_checkpoints(self, row: Row) -> None:
        """The first run that uses a checkpoint logs it; later ones, where W&B is online, say that they use it."""
        for kind, name in {**NAMM_CHECKPOINT, **board_of(of(row)).checkpoints}.items():
            digest = row["identity"].get(name)
            folder = self.checkpoints.get(digest or "")
            if digest is None or folder is None:
                continue
            artifact = f"{kind}-{digest[:16]}"
            if artifact in self._tracked:
                if self.mode == "online":
                    self._run.use_artifact(f"{artifact}:latest")
                continue
            made = self._package.Artifact(artifact, type="model", metadata={"kind": kind, name: digest})
            for path in sorted(folder.iterdir()):
                if path.suffix in CHECKPOINT_FILES:
                    made.add_file(str(path), skip_cache=True)
            self._run.log_artifact(made)
            self._tracked[artifact] = self._run.id


def _note(row: Row) -> str:
    """What is remembered of a row that was mirrored; one that got another score is mirrored again, under its id."""
    return f"{row['key']}{' rescored' if row.get('rescored') else ''}"


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
    except Exception as error:  # a wandb beside packages that it does not fit
        return None, "disabled", f"W&B cannot be imported, nothing is mirrored ({_reason(error)}); rows.jsonl has all."
    why = "nobody is logged in or --wandb offline was given"
    if mode == "auto":
        logged_in, trouble = _logged_in(wandb)
        mode = "online" if os.environ.get("WANDB_MODE") != "offline" and logged_in else "offline"
        why = trouble or why
    return wandb, mode, "" if mode == "online" else f"W&B runs offline ({why})."


def _logged_in(wandb: ModuleType) -> tuple[bool, str]:
    """Whether a key lies in the environment or in $NETRC, else ~/.netrc, without asking the network or the user.

    Returns:
        That, and what is wrong with the file, where something is.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True, ""
    path = Path(os.environ.get("NETRC") or "~/.netrc")
    try:
        from netrc import netrc

        path = path.expanduser()
        host = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url).hostname
        return host is not None and netrc(path).authenticators(host) is not None, ""
    except FileNotFoundError:
        return False, ""
    except Exception as error:  # another program's file may hold anything
        return False, f"{path} could not be read: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    told = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {told}"[:200]
