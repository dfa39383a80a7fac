"""Writes a control checkpoint: stock Hugging Face files, `control.json` with the facts, and a card for people."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from evaluations.analysis.estimates import Estimate, bootstrap
from modalities.control.agents import FACTS_FILE, ControlFacts
from modalities.control.rollout import Rollout
from namm.files import file_sha256, write_atomically

PACKAGES = ("torch", "transformers", "gymnasium", "mujoco", "numpy")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a control checkpoint."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def save_model(folder: Path, model: torch.nn.Module, facts: ControlFacts) -> str:
    """Writes `config.json`, `model.safetensors` and `control.json`, each atomically.

    Returns:
        SHA-256 of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        model.save_pretrained(temporary)
        (Path(temporary) / FACTS_FILE).write_text(facts.to_json(), "utf-8")
        for name in ("config.json", "model.safetensors", FACTS_FILE):
            (Path(temporary) / name).chmod(0o644)
            os.replace(Path(temporary) / name, folder / name)
    return file_sha256(folder / "model.safetensors")


def write_card(folder: Path, text: str) -> None:
    """Writes README.md atomically."""
    write_atomically(folder / "README.md", text.strip() + "\n")


def estimate_return(rollouts: Sequence[Rollout]) -> Estimate:
    """Mean return and its interval, resampled inside each rollout (one rollout = one seed's block of resets)."""
    return bootstrap([[episode.total for episode in rollout.episodes] for rollout in rollouts], seed=0)


def mean_length(rollouts: Sequence[Rollout]) -> float:
    """Mean episode length over all rollouts, steps."""
    return float(np.mean([episode.length for rollout in rollouts for episode in rollout.episodes]))


def show(estimate: Estimate, digits: int = 1) -> str:
    """ "99.7 [99.1, 100.2]"."""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
