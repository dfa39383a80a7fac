"""What the weights of a Decision Transformer do not say, and where its folder is.

`control.json` lies beside the stock Hugging Face files, which `control_weights.py` reads, and holds the environment,
the state statistics, the return scale and the native window. Folders without it need these facts from elsewhere.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from namm.errors import CheckpointError, ConfigError
from namm.typed import Count, Origin, Positive, build, check_fields, read_json, typed

FACTS_FILE = "control.json"


@dataclass(frozen=True)
class StateStatistics:
    """Mean and standard deviation of the states of a dataset; a Decision Transformer sees states whitened with them."""

    mean: Float[np.ndarray, " state"]
    """Mean of each dimension."""
    std: Float[np.ndarray, " state"]
    """Standard deviation of each dimension, larger than 0."""

    def normalise(self, states: Float[np.ndarray, "... state"]) -> Float[np.ndarray, "... state"]:
        """(states - mean) / std in float32."""
        return ((states - self.mean) / self.std).astype(np.float32)


@dataclass(frozen=True)
class ControlFacts:
    """What `control.json` says about a Decision Transformer."""

    env_id: str
    """Gymnasium id of the environment it was trained for."""
    state_mean: tuple[float, ...]
    """Mean of its training states."""
    state_std: tuple[Positive, ...]
    """Standard deviation of its training states, the floor included."""
    context_steps: Count | None = 20
    """Steps of its native window; None: it was trained on whole episodes."""
    return_scale: Positive = 1000.0
    """Returns-to-go are divided by this before the model sees them."""
    target_return: float | None = None
    """Return to ask for by default."""
    reference_scores: tuple[float, float] | None = None
    """Return of a random and of an expert policy, for normalised scores; None where the environment has none."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How it was made: versions, dataset sizes and returns."""

    def __post_init__(self) -> None:
        check_fields(self, Origin("the facts of a checkpoint"))
        if not self.env_id:
            raise ConfigError("expected the id of an environment in env_id, found an empty text")
        if self.reference_scores is not None:
            reference_pair(*self.reference_scores, Origin("reference_scores"))

    @classmethod
    def from_json(cls, path: Path) -> ControlFacts:
        """Reads `control.json`.

        Raises:
            CheckpointError: The file is damaged, a fact is missing, of another kind or impossible, or one is there that
                nobody knows.
        """
        return build(cls, read_json(path), Origin(str(path), CheckpointError, "correct it, or write the file again"))

    def to_json(self) -> str:
        """The text of `control.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


def reference_pair(
    random: Any, expert: Any, origin: Origin, names: tuple[str, str] = ("random", "expert")
) -> tuple[float, float] | None:
    """Return of a random and of an expert policy, between which scores are normalised; None where both are None.

    Args:
        random: As stored.
        expert: As stored.
        origin: Where they come from.
        names: What they are called there.

    Raises:
        NammError: One is missing, they are no finite numbers, or the expert's is not above the other.
    """
    if random is None and expert is None:
        return None
    low, high = (typed(value, float, name, origin) for value, name in zip((random, expert), names, strict=True))
    if low >= high:
        raise origin.wrong(names[1], f"a return above {names[0]} ({low:g})", high)
    return low, high


def find_checkpoint(source: str | Path) -> Path:
    """Local folder of a checkpoint; an id like "owner/name" that is no folder is fetched from the Hugging Face Hub.

    Raises:
        CheckpointError: There is no such folder, and the Hub has no such repository or cannot be reached.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or folder.parent.is_dir():
        siblings = [path.name for path in folder.parent.glob("*") if (path / "config.json").is_file()]
        near = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.3)
        beside = f"; checkpoints beside it: {', '.join(near)}" if near else ""
        raise CheckpointError(f"expected a checkpoint folder at {source}, found none{beside}; check the path")
    from huggingface_hub import snapshot_download

    try:  # no pickled weights: only JSON and safetensors are fetched
        wanted = ["config.json", FACTS_FILE, "model*.safetensors", "model.safetensors.index.json"]
        return Path(snapshot_download(str(source), allow_patterns=wanted))
    except Exception as error:
        raise CheckpointError(
            f"expected a local folder or a reachable Hugging Face repository named {source}, found neither "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the network"
        ) from error
