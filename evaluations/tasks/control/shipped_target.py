"""A control target that is known by name: a checkpoint, and the environment that it names, played in one way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkpoints
from modalities.control.facts import ControlFacts

SHIPPED_FOLDER = Path(checkpoints.__file__).parent / "control"


@dataclass(frozen=True)
class Shipped:
    """A target that comes with the project, or with another package."""

    name: str
    """As the command line and rows call it."""
    folder: str
    """Folder of the checkpoint in `checkpoints/control`; a whole path where it is another package's."""
    episodes: int
    """Episodes of one seed."""
    quick_episodes: int
    """The same in the short form (`--quick`)."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment, over those that the checkpoint names."""
    in_quick: bool = True
    """Not left out in the short form of a suite."""
    recipe: str = ""
    """Command that makes the checkpoint, run from the root of the repository."""

    @property
    def path(self) -> Path:
        """Folder of the checkpoint."""
        return SHIPPED_FOLDER / self.folder

    @property
    def env_id(self) -> str:
        """Environment that the checkpoint names; empty where it has not been made."""
        facts = self.path / "control.json"
        return ControlFacts.from_json(facts).env_id if facts.is_file() else ""
