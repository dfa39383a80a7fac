"""Pictures and animations of finished rows, made once and kept in the experiment's folder `media`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evaluations.analysis.summary import TargetSummary
from evaluations.control.cells import ControlTarget
from evaluations.control.memory_figures import memory_picture
from evaluations.control.replay import animate
from evaluations.experiment.contract import Media
from evaluations.report import figures
from evaluations.report.sections.base import Animation
from evaluations.rows.results import Row
from namm.errors import NammError
from namm.files import write_atomically


def media_of(
    rows: Sequence[Row], target: ControlTarget, folder: Path, video: bool, say: Callable[[str], None]
) -> Media:
    """What is shown beside the numbers of these rows: nothing, where none of them has a trace."""
    row = next((row for row in rows if row.get("trace")), None)
    if row is None:
        return Media()

    def draw() -> Path:
        picture = _media_folder(folder) / f"{_file_name(row)}-{row['key']}.png"
        write_atomically(picture, figures.png(memory_picture(row)))
        return picture

    return Media(
        _drawn("picture of the memory", row, draw, say), _animation(row, target, folder, say) if video else None
    )


def animations(
    summaries: Sequence[TargetSummary], folder: Path, targets: Mapping[str, ControlTarget], say: Callable[[str], None]
) -> dict[str, Animation]:
    """For the report: the best NAMM's first episode on every target."""
    found: dict[str, Animation] = {}
    for summary in summaries:
        shown = summary.best_namm or summary.policies[0]
        row = next((row for row in shown.rows if row.get("trace")), None)
        path = None if row is None else _animation(row, targets[summary.target], folder, say)
        if row is not None and path is not None:
            seed = row["trace"]["reset_seed"]
            caption = f"{shown.policy} on {summary.task}, reset seed {seed}. Below: its memory, bright where held."
            found[summary.target] = Animation(path, caption)
    return found


def _animation(row: Row, target: ControlTarget, folder: Path, say: Callable[[str], None]) -> Path | None:
    """The GIF of a row's traced episode, made once; None, and a line why, where it cannot be drawn."""

    def draw() -> Path:
        path = _media_folder(folder) / f"{_file_name(row)}-{row['key']}.gif"
        return path if path.exists() else animate(row, target.env_kwargs, path)

    return _drawn("animation", row, draw, say)


def _drawn(what: str, row: Row, draw: Callable[[], Path], say: Callable[[str], None]) -> Path | None:
    """What was drawn. Simulators, their renderers and the disk may raise anything; that costs a picture, no result."""
    try:
        return draw()
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0]
        reason = told if isinstance(error, NammError) else f"{type(error).__name__}: {told}"
        say(f"no {what} of {row['target']}: {reason}")
        return None


def _media_folder(folder: Path) -> Path:
    media = folder / "media"
    media.mkdir(exist_ok=True)
    return media


def _file_name(row: Row) -> str:
    name = f"{row['target']}-{row['policy']}"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip("-")
