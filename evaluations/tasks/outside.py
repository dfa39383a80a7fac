"""Tasks of other packages: entry points of the group `namm.tasks`, whatever kind of task each names."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from namm.errors import ConfigError

GROUP = "namm.tasks"
"""Each of its entry points names one task, of one of `KINDS`."""
KINDS = {
    "a text benchmark": "evaluations.tasks.text.base:Benchmark",
    "a drawn text task": "evaluations.tasks.recall.tasks:TextTask",
    "a video task": "evaluations.tasks.video.base:VideoTask",
    "a control target": "evaluations.tasks.control.shipped_target:Shipped",
}
"""What a task may be: a subclass, or an object, of one of these."""


def is_task(thing: Any) -> bool:
    """True for a task of any kind.

    Raises:
        ConfigError: It is none.
    """
    kinds = tuple(resolve_name(kind) for kind in KINDS.values())
    if not (isinstance(thing, kinds) or (isinstance(thing, type) and issubclass(thing, kinds))):
        raise ConfigError(f"expected {' or '.join(KINDS)}, found {thing!r}")
    return True
