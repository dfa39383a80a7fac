"""NAMMs and other checkpoints as W&B artifacts, named by what they compute: so an evolution and its evaluations meet.

`namm-DIGEST` is logged by the evolution that made a NAMM and used by every run that evaluates it, wherever either ran:
W&B then draws the line from one to the other. Equal files are one version there, whoever uploads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from namm.model import CONFIG_FILE, WEIGHTS_FILE

NAMM_CHECKPOINT = {"namm": "namm_sha256"}
"""A kind of checkpoint, and where a row's identity holds the digest; a modality's board has its own."""
NAMM_FILES = (CONFIG_FILE, WEIGHTS_FILE)
"""What its digest is of; a card that somebody adds later makes no other NAMM of it."""
CHECKPOINT_FILES = (".safetensors", ".json", ".md")
"""What belongs to any other checkpoint; a user's folder may hold a whole training beside it."""


def artifact_name(kind: str, digest: str) -> str:
    """What the artifact of a checkpoint is called.

    Args:
        kind: "namm", "decision-transformer", ...
        digest: Of what it computes.
    """
    return f"{kind}-{digest[:16]}"


def checkpoint_artifact(
    wandb: ModuleType, kind: str, digest: str, folder: Path, facts: Mapping[str, Any] | None = None
) -> Any:
    """The artifact of a checkpoint, not logged yet.

    Args:
        wandb: The package.
        kind: Of checkpoint.
        digest: Of what it computes.
        folder: With its files.
        facts: Told beside it.

    Raises:
        OSError: The folder cannot be read.
    """
    described = {"kind": kind, "sha256": digest, **(facts or {})}
    made = wandb.Artifact(artifact_name(kind, digest), type="model", metadata=described)
    for path in sorted(folder.iterdir()):
        if path.name in NAMM_FILES if kind == "namm" else path.suffix in CHECKPOINT_FILES:
            made.add_file(str(path), skip_cache=True)
    return made


def use(run: Any, artifact: Any, online: bool) -> Any | None:
    """Says that a run uses an artifact, which is uploaded where it is not there yet.

    Args:
        run: In progress.
        artifact: Not logged yet.
        online: Whether W&B is asked now.

    Returns:
        The same for other runs to use; None where each must bring its own, because nobody is asked.
    """
    if online:
        return run.use_artifact(artifact)
    # what use_artifact does with a new artifact; it refuses offline, where this record waits as all others do
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    return None
