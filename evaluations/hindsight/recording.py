"""What a NAMM would have seen of one prompt at its updates, and what later turned out to matter.

Two passes: one over the whole prompt with a full cache, backwards too, gives each token's worth to every later chunk of
queries (`modalities.language.token_gradients`); one under a policy, which may be the full cache, gives the signals at
some updates. A worth is looked up by position, so it serves recordings under any policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from evaluations.tasks.lessons import Lesson
from modalities import attach
from modalities.language.token_gradients import token_gradients
from namm import NAMM
from namm.errors import DataError
from namm.files import write_atomically
from namm.policies.base import Selection, TokenView
from namm.policies.namm import NAMMPolicy
from namm.signals import KEY_SIGNALS, Held, key_signals

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS = tuple(KEY_SIGNALS)
"""Key signals that are recorded: all, so that any list of them can be trained on."""


@dataclass(frozen=True)
class Seen:
    """The tokens of one update; unused slots, of position -1, before the oldest."""

    seen: int
    """Tokens read by then."""

    positions: Int[Tensor, "layers kv_heads slots"]
    spectrum: Float[Tensor, "layers kv_heads slots bins"]
    of_keys: Float[Tensor, "layers kv_heads slots signals"]


@dataclass(frozen=True)
class Recording:
    """One prompt's worths and updates."""

    worth: Float[Tensor, "layers kv_heads chunks tokens"]
    """What each token is worth to the chunks from each on: sums of absolute derivatives, in nats a unit of logit."""

    chunk: int
    """Queries a chunk."""

    updates: tuple[Seen, ...]
    """Some updates, oldest first."""

    kept: float
    """Kept fraction after the last update, mean over layers and heads."""

    def label(self, update: Seen) -> Float[Tensor, "layers kv_heads slots"]:
        """The worth of an update's tokens to all that comes after it; 0 in unused slots."""
        later = self.worth[:, :, update.seen // self.chunk].float()
        return later.gather(-1, update.positions.long().clamp_min(0)).masked_fill(update.positions < 0, 0.0)

    def save(self, path: Path) -> None:
        """Writes the recording, whole or not at all."""
        tensors = {"worth": self.worth, "facts": torch.tensor([self.chunk, len(self.updates)])}
        tensors["kept"] = torch.tensor(self.kept)
        for number, update in enumerate(self.updates):
            tensors |= {
                f"{number}.{name}": getattr(update, name).contiguous() for name in ("positions", "spectrum", "of_keys")
            }
            tensors[f"{number}.seen"] = torch.tensor(update.seen)
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @staticmethod
    def load(path: Path) -> Recording:
        """Reads what `save` wrote.

        Raises:
            DataError: The file is damaged.
        """
        try:
            found = load_file(path)
            chunk, count = found["facts"].tolist()
            names = ("positions", "spectrum", "of_keys")
            updates = (
                Seen(int(found[f"{number}.seen"]), *(found[f"{number}.{name}"] for name in names))
                for number in range(count)
            )
            return Recording(found["worth"], chunk, tuple(updates), float(found["kept"]))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"Expected a recording in {path}, found: {error!r}; delete it to record again.") from error


class Recorder(NAMMPolicy):
    """A NAMM, or the full cache, that writes down what it sees at some updates."""

    name = "recorder"

    def __init__(
        self, selection: Selection, namm: NAMM, statistics: str, chosen: frozenset[int], of_keys: Sequence[str] = KEYS
    ) -> None:
        """A recorder.

        Args:
            selection: Without threshold and budget everything is kept and nothing is judged.
            namm: Judges; its signals of attention are recorded.
            statistics: Under which it judges.
            chosen: Tokens seen at the updates that are recorded.
            of_keys: The key signals that are recorded.
        """
        super().__init__(selection, namm, statistics)
        self.chosen, self.of_keys = chosen, of_keys
        self.found: dict[int, dict[int, tuple[Tensor, Tensor, Tensor]]] = {}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """The NAMM's scores."""
        seen = int(view.seen[0])
        if seen in self.chosen:
            of_keys = key_signals(self.of_keys, Held(view.keys, view.values, view.valid))
            parts = (view.positions[0].int(), self.spectrum(view)[0].bfloat16(), of_keys[0].bfloat16())
            self.found.setdefault(seen, {})[view.layer] = parts
        if self.selection.threshold is None and self.selection.budget is None:
            return torch.zeros(view.valid.shape, device=view.valid.device)
        return super().score(view)

    def updates(self) -> tuple[Seen, ...]:
        """What was written down."""
        return tuple(
            Seen(seen, *(_stacked([layers[index][part] for index in sorted(layers)], part) for part in range(3)))
            for seen, layers in sorted(self.found.items())
        )


def _stacked(layers: list[Tensor], part: int) -> Tensor:
    """Layers with unequal numbers of slots, filled up before their oldest token."""
    slots = max(layer.shape[1] for layer in layers)
    filled = []
    for layer in layers:
        missing = layer.new_full((layer.shape[0], slots - layer.shape[1], *layer.shape[2:]), -1 if part == 0 else 0)
        filled.append(torch.cat([missing, layer], dim=1))
    return torch.stack(filled)


def worths(model: PreTrainedModel, lesson: Lesson, chunk: int) -> Float[Tensor, "layers kv_heads chunks tokens"]:
    """What each token is worth to the chunks from each on.

    Args:
        model: The source.
        lesson: A prompt.
        chunk: Queries a chunk; the interval is a multiple.
    """
    wanted: Bool[Tensor, " tokens"] = torch.tensor(lesson.wanted)
    found, _ = token_gradients(model, torch.tensor(lesson.ids), wanted, chunk)
    return found.abs().flip(2).cumsum(2).flip(2).bfloat16()


@torch.inference_mode()
def seen_under(
    model: PreTrainedModel,
    lesson: Lesson,
    namm: NAMM,
    statistics: str,
    updates: int,
    threshold: float | None,
    of_keys: Sequence[str] = KEYS,
) -> tuple[tuple[Seen, ...], float]:
    """What the NAMM sees at some updates of a prompt, evenly spread with the last, and what it keeps after that.

    Args:
        model: The source.
        lesson: A prompt.
        namm: Judges and is recorded.
        statistics: Under which it judges.
        updates: How many are written down.
        threshold: Least score that is kept; None keeps everything.
        of_keys: The key signals that are written down.
    """
    ends = range(lesson.interval, len(lesson.ids) - 2, lesson.interval)
    ids = torch.tensor(lesson.ids)[None, : ends[-1]]  # what is read after the last update is not judged any more
    count = min(updates, len(ends))
    chosen = {ends[round((number + 1) * len(ends) / count) - 1] for number in range(count)}
    selection = Selection(interval=lesson.interval, threshold=threshold)
    recorder = Recorder(selection, namm, statistics, frozenset(chosen), of_keys)
    with attach(model.base_model, recorder) as memory:
        model.base_model(input_ids=ids, use_cache=True)
        kept = float(memory.slots().float().mean()) / ids.shape[1]
    return recorder.updates(), kept
