"""Video tasks by name."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isabstract
from typing import Any

from evaluations.tasks.outside import GROUP, is_task
from evaluations.tasks.video.base import VideoOptions, VideoTask
from evaluations.tasks.video.drawn import EasyVQA, Rendered
from evaluations.tasks.video.longvideobench import LongVideoBench
from evaluations.tasks.video.mlvu import FILES, JUDGED, MLVU
from evaluations.tasks.video.video_mme import VideoMME
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.outside import Registry


def _kind(thing: Any) -> type[VideoTask] | None:
    fits = isinstance(thing, type) and issubclass(thing, VideoTask) and not isabstract(thing)
    return thing if fits else None


KINDS: Registry[type[VideoTask]] = Registry(
    (Rendered, EasyVQA, LongVideoBench, VideoMME),
    _kind,
    "a subclass of VideoTask with items, chosen and protocol",
    GROUP,
    is_task,
)
"""Video tasks by name, those of other packages among them; mlvu is seven."""
OWN = (Rendered.name, EasyVQA.name)
"""Drawn here: what can be asked without any data."""


def task_names(written: Sequence[str]) -> tuple[str, ...]:
    """Tasks as they are asked for, each once; mlvu is its seven kinds.

    Raises:
        UnknownNameError: There is no such task.
    """
    found: dict[str, None] = {}
    for name in written:
        base, _, kind = name.strip().lower().replace("_", "-").partition("/")
        if base == MLVU.name:
            kinds = name.strip().partition("/")[2].split(",") if kind else FILES
            for each in kinds:
                if each not in (*FILES, *JUDGED):
                    raise UnknownNameError(f"mlvu has no task {each!r}. {did_you_mean(each, FILES)}")
                found[f"{MLVU.name}/{each}"] = None
        elif base in KINDS and not kind:
            found[base] = None
        else:
            raise UnknownNameError(f"There is no video task {name!r}. {did_you_mean(base, (*KINDS, MLVU.name))}")
    if not found:
        raise ConfigError("--benchmark must name at least one, found none.")
    return tuple(found)


def make_task(name: str, options: VideoOptions) -> VideoTask:
    """A task by one of the names that `task_names` gives.

    Raises:
        NammError: An option does not suit it, or its folder is missing.
    """
    base, _, kind = name.partition("/")
    return MLVU(options, kind) if base == MLVU.name else KINDS[base](options)
