"""A Weights & Biases mirror of finished rows: rows.jsonl is the truth, and nothing here can stop an experiment.

One run per target x policy x seed (evaluations/boards/run_content.py says what it holds). Runs are made from finished
rows, so a resumed experiment mirrors what is new and never twice: `tracked.json` remembers, and should it be lost, a
run made again has the same id (of the row and of the experiment's identity). `namm-sync` makes all of them anew. Every
run uses the artifact of its NAMM; other checkpoints are logged once. What W&B refuses costs one line and no more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from evaluations.boards.artifacts import NAMM_CHECKPOINT, artifact_name, checkpoint_artifact, use
from evaluations.boards.panels import board_of
from evaluations.boards.run_content import RunContent, run_content, run_id
from evaluations.boards.wandb_package import LEAN, Mode, open_wandb, project, reason, under_free_id
from evaluations.experiment.contract import Media
from evaluations.rows.identity import experiment_identity
from evaluations.rows.results import Row
from evaluations.rows.trials import of
from namm.files import write_atomically

SYNCED = "synced"
"""Where in an experiment's folder the runs of a replay lie that are not uploaded yet."""


class Tracker:
    """Mirrors rows to W&B, as a context: the run in progress is finished on exit, and marked failed on an error.

    Args:
        mode: "online", "offline", "disabled", or "auto": online where somebody is logged in, else offline.
        folder: The experiment's folder; its name is the experiment's.
        config: The resolved configuration, stored with every run under `experiment`.
        checkpoints: Folder of every checkpoint that rows name by its digest.
        anew: Forget what was mirrored and make every run again; runs that stay offline then lie in `synced`, which has
            nothing else.

    Raises:
        OSError: With `anew`, the folder cannot be written.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, Path] | None = None,
        anew: bool = False,
    ) -> None:
        self.folder = folder
        self.config = dict(config or {})
        self.checkpoints = dict(checkpoints or {})
        self.notices: list[str] = []
        self._unsaid = 0
        self._run: Any = None
        self.mode: Mode
        self._wandb, self.mode, notice = open_wandb(mode)
        self._tell(notice)
        self._path = folder / "tracked.json"
        self._anew = anew
        self._runs_folder = folder / SYNCED if anew else folder
        self._tracked = {} if anew else _load(self._path)
        self._used: dict[str, Any] = {}
        self._identity: str | None = None
        if anew and self.active:
            shutil.rmtree(self._runs_folder, ignore_errors=True)
            self._runs_folder.mkdir()

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
        if not self._anew:
            self._tracked |= _load(self._path)  # another process may have mirrored in the meantime
        new = [row for row in rows if not self.is_tracked([row])]
        made: list[str] = []
        for row in new:
            shown = media if media and row.get("trace") else Media()
            label = f"{row.get('target')} · {row.get('policy')} · seed {row.get('seed')}"
            self._attempt(label, lambda row=row, shown=shown: made.append(self._made(row, shown)))
        return made

    def mirror_table(self, name: str, columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str | None:
        """Makes one run of the whole experiment that holds a table; what W&B refuses costs a line.

        Args:
            name: Of the table, and of what the run is for.
            columns: Its titles.
            lines: Its values.

        Returns:
            Folder of the run; None where it could not be made.
        """
        if not self.active:
            return None
        experiment = self.folder.resolve().name
        content = RunContent(
            id=run_id(self._id_of_experiment(), name), name=f"{experiment}-{name}", group=experiment, job_type=name,
            tags=(name,), config={"experiment": {"name": experiment, **self.config}}, sections=(), axes={}, history=(),
            columns=tuple(columns), table_name=name, table=tuple(map(tuple, lines)), summary={},
        )  # fmt: skip
        made: list[str] = []
        self._attempt(f"the {name} of {experiment}", lambda: made.append(self._logged(content, Media(), lambda: None)))
        return made[0] if made else None

    def _tell(self, line: str) -> None:
        if line and line not in self.notices:
            self.notices.append(line)

    def _attempt(self, what: str, work: Callable[[], object]) -> None:
        """Does a part of the mirror; whatever stops it costs that part and one line."""
        try:
            work()
        except Exception as error:
            self._tell(f"W&B: {what} is not mirrored ({reason(error)}); rows.jsonl has everything.")

    def _made(self, row: Row, media: Media) -> str:
        content = run_content(row, self.folder.resolve().name, self.config, self._id_of_experiment())
        folder = self._logged(content, media, lambda: self._log_checkpoints(row))
        self._tracked[_note(row)] = Path(folder).name
        text = json.dumps(self._tracked, indent=1) + "\n"
        self._attempt("the note of what is mirrored", lambda: write_atomically(self._path, text))
        return folder

    def _id_of_experiment(self) -> str:
        if self._identity is None:
            self._identity = experiment_identity(self.folder)
        return self._identity

    def _logged(self, content: RunContent, media: Media, checkpoints: Callable[[], object]) -> str:
        """One whole run; returns its folder."""
        self._run = self._started(content)
        try:
            folder = str(Path(self._run.dir).parent)
            self._log(content, media)
            self._attempt("a checkpoint", checkpoints)
        except BaseException:
            self._finish(exit_code=1)
            raise
        self._finish(exit_code=0)
        return folder

    def _started(self, content: RunContent) -> Any:
        """A run; where W&B cannot be reached, this and all later ones are kept offline."""
        try:
            return under_free_id(lambda name: self._start(content, name), content.id, self._tell)
        except Exception as error:
            if self.mode != "online":
                raise
            self.mode = "offline"
            self._tell(
                f"W&B could not be reached ({reason(error)}); runs are kept offline, wandb sync uploads them later."
            )
            self._used.clear()
            self._package.teardown()  # forgets the run that did not come about, whose id this one has
            return self._start(content, content.id)

    def _start(self, content: RunContent, name: str) -> Any:
        options = {
            "id": name,
            "project": project(),
            "group": content.group,
            "job_type": content.job_type,
            "name": content.name,
            "tags": list(content.tags),
            "config": dict(content.config),
            "dir": str(self._runs_folder),
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
        """The NAMM is used by each of its runs; what else they use is logged by the first of them."""
        for kind, name in {**NAMM_CHECKPOINT, **board_of(of(row)).checkpoints}.items():
            digest = row["identity"].get(name)
            if digest is not None and kind == "namm":
                self._use_namm(digest)
            elif digest in self.checkpoints:
                self._log_once(kind, digest)

    def _log_once(self, kind: str, digest: str) -> None:
        artifact = artifact_name(kind, digest)
        if artifact not in self._tracked:
            self._run.log_artifact(checkpoint_artifact(self._package, kind, digest, self.checkpoints[digest]))
            self._tracked[artifact] = self._run.id
        elif self.mode == "online":
            self._run.use_artifact(f"{artifact}:latest")

    def _use_namm(self, digest: str) -> None:
        """The line from an evolution to what it is evaluated on; uploaded where W&B does not have the NAMM yet."""
        artifact, folder = artifact_name("namm", digest), self.checkpoints.get(digest)
        if artifact in self._used:
            if (used := self._used[artifact]) is not None:
                self._run.use_artifact(used)
        elif folder is not None:
            used = use(self._run, checkpoint_artifact(self._package, "namm", digest, folder), self.mode == "online")
            self._used |= {} if used is None else {artifact: used}
        elif self.mode == "online":
            self._used[artifact] = None  # asked once: of thousands of rows each would wait for the same answer
            self._used[artifact] = self._run.use_artifact(f"{artifact}:latest")


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
