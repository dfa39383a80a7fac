"""The processes of one evolution (`torchrun`), and the few things that they tell each other.

A population is small and drawn from a seed, so no parameters travel: every rank draws the same one, scores its share,
and the fitness is summed over ranks, each adding zeros for what it did not score. Everything runs on the CPU (gloo),
also where the scoring uses GPUs. With one process nothing here communicates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, RankError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    """Its number; 0 leads: it alone writes, validates and shows."""

    size: int = 1
    """How many there are."""

    @property
    def leads(self) -> bool:
        """True for the one that writes."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """The items that this rank does; shares differ by one at most."""
        return range(self.rank, items, self.size)

    def sum(self, values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The sum over ranks, exact where all but one hold zero."""
        total = values + 0.0  # a negative zero must not depend on the number of ranks either
        if self.size > 1:
            with self._answered():
                dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value, by rank; floats survive exactly, NaN and infinity too."""
        if self.size == 1:
            return [json.loads(json.dumps(value))]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.sum(
            torch.zeros(self.size, dtype=torch.float64).index_fill_(0, torch.tensor(self.rank), len(mine))
        )
        longest = int(lengths.max())
        padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        with self._answered():
            dist.all_gather(padded, torch.cat([mine, torch.zeros(longest - len(mine), dtype=torch.uint8)]))
        return [
            json.loads(bytes(part[: int(length)].tolist()).decode())
            for part, length in zip(padded, lengths, strict=True)
        ]

    def from_leader(self, tensors: Mapping[str, Tensor], scalars: Any) -> tuple[dict[str, Tensor], Any]:
        """What the leader holds, on every rank: tensors (on the CPU) and a JSON-able value, bit for bit."""
        if self.size == 1:
            return dict(tensors), scalars
        content = bytearray()
        if self.leads:
            packed = {"": torch.zeros(0)} | {name: part.cpu().contiguous() for name, part in tensors.items()}
            content = bytearray(safetensors.torch.save(packed, {"scalars": json.dumps(scalars)}))
        length = int(self.sum(torch.tensor(float(len(content)), dtype=torch.float64)))
        buffer = torch.frombuffer(content, dtype=torch.uint8) if self.leads else torch.empty(length, dtype=torch.uint8)
        with self._answered():
            dist.broadcast(buffer, 0)
        if self.leads:
            return dict(tensors), scalars
        raw = buffer.numpy().tobytes()
        found = safetensors.torch.load(raw)
        del found[""]
        head = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return found, json.loads(head["__metadata__"]["scalars"])

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Whether the others answered is what this rank knows of how they are."""
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"Rank {self.rank}: expected an answer of all {self.size} ranks, found that one has ended or hangs "
                f"({str(error).splitlines()[0]}); see what it said, then run the same command again."
            ) from error


@contextmanager
def joined(patience_s: float = 3600.0) -> Iterator[Ranks]:
    """The ranks of a run under `torchrun` (which sets RANK, WORLD_SIZE and where to meet), or this process alone.

    Args:
        patience_s: How long a rank waits for the others before it gives up: longer than a generation and a validation.

    Raises:
        ConfigError: The ranks cannot meet.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    try:
        wait = timedelta(seconds=patience_s)
        # torch documents `rendezvous` and `PrefixStore` as its public names, and exports neither
        meeting = dist.rendezvous("env://", timeout=wait)  # pyright: ignore[reportPrivateImportUsage]
        store, rank, size = next(meeting)
        # torchrun keeps its store over restarts: without a place of its own a restart would call the dead
        attempt = f"evolution/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{size}"
        store = dist.PrefixStore(attempt, store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Expected to meet {size} ranks as torchrun says in the environment, found: {error}; start with torchrun, "
            "or unset WORLD_SIZE for one process."
        ) from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
