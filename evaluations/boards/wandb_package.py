"""Weights & Biases as this project uses it: which mode, what a run says of the machine, and ids that were deleted.

The machine and its environment are not told. Offline is the default unless somebody is logged in; `wandb sync FOLDER`
uploads later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import urlparse

Mode = Literal["auto", "online", "offline", "disabled"]

PROJECT = "namm-transfer"
DELETED = "previously created and deleted"
"""What W&B says of an id whose run was deleted; it never gives that id again."""
GENERATIONS = 20
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


def project() -> str:
    """Where runs go."""
    return os.environ.get("WANDB_PROJECT", PROJECT)


def id_of(root: str, generation: int) -> str:
    """The id of a run whose earlier ids, if any, W&B refuses.

    Args:
        root: Follows from what the run shows.
        generation: From 1 on.
    """
    return root if generation == 1 else f"{root}-{generation}"


def under_free_id(start: Callable[[str], Any], root: str, tell: Callable[[str], None]) -> Any:
    """A run under the first of its ids that W&B takes: one whose run was deleted there gets the next, and keeps it.

    Args:
        start: Makes the run of an id.
        root: The first id.
        tell: Is told of deleted runs.

    Raises:
        Exception: Whatever else W&B has against it.
    """
    for generation in range(1, GENERATIONS):
        name = id_of(root, generation)
        try:
            return start(name)
        except Exception as error:
            if DELETED not in str(error):
                raise
            tell(
                "W&B: runs were deleted there, whose ids it does not give again; they are mirrored under the next ones."
            )
    return start(id_of(root, GENERATIONS))


def open_wandb(mode: Mode) -> tuple[ModuleType | None, Mode, str]:
    """The package (None: nothing is mirrored), the mode that "auto" means here, and what to tell about it."""
    if mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return None, "disabled", ""
    try:
        import wandb
    except ImportError:
        return None, "disabled", "W&B is not installed, nothing is mirrored (pip install wandb); rows.jsonl has all."
    except Exception as error:  # a wandb beside packages that it does not fit
        return None, "disabled", f"W&B cannot be imported, nothing is mirrored ({reason(error)}); rows.jsonl has all."
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
        return False, f"{path} could not be read: {reason(error)}"


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    told = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {told}"[:200]
