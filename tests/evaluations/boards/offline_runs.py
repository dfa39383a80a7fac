"""Weights & Biases runs that were kept offline, read back from the disk by W&B's own reader."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def inspect(folder: str, *options: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    executable = str(wandb) if wandb.exists() else shutil.which("wandb")
    command = [executable, "leet", "inspect", *options, "--json", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def records(folder: str) -> list[dict]:
    """Every record of the .wandb file."""
    return [json.loads(line) for line in inspect(folder).splitlines()]


def id_of(folder: str | Path) -> str:
    """A run's id, out of its folder's name; of two runs that began in the same second W&B numbers the second."""
    (found,) = re.findall(r"[0-9a-f]{16}", Path(folder).name)
    return found
