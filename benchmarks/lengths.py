"""What a token costs as a text grows, with a fixed budget and with the full cache: `python benchmarks/lengths.py`.

One text is given in pieces, to each configuration in turn, in one process: the same minute of a noisy machine is
everyone's. At every doubling a row tells what a token of the last piece took, a token given alone, all tokens so far,
and what is held. The full cache is given up where a piece takes it too long; the row says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import tyro
from llama import Clock, Shape, held_bytes

import modalities  # before transformers
from namm import NAMM, Memory
from namm.policies import make_policy


@dataclass(frozen=True)
class Options:
    """What is measured."""

    longest: int = 65_536
    """Tokens of the text."""
    shortest: int = 2048
    """Tokens at the first row; also those of a piece."""
    budget: int = 2048
    """Slots that each head keeps."""
    alone: int = 24
    """Tokens given one by one at each row."""
    patience: float = 60.0
    """Seconds that a piece may take before the full cache is given up."""
    threads: int = 2
    """Threads."""
    clock: Clock = "wall"
    """With one thread on a machine that others use too, "processor"."""
    shape: Shape = field(default_factory=lambda: Shape(layers=4, width=256, heads=4, kv_heads=1, inner=688))
    """The model."""


class Reader:
    """One configuration: a model, and what it holds of the text."""

    def __init__(self, model: Any, memory: Memory | None, now: Callable[[], float]) -> None:
        """Nothing read yet."""
        self.model, self.memory, self.now = model, memory, now
        self.cache: Any = None
        self.total, self.piece, self.single = 0.0, 0.0, 0.0

    def read(self, ids: torch.Tensor) -> None:
        """Reads a piece; :attr:`piece` is then the seconds that it took."""
        began = self.now()
        self.cache = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True).past_key_values
        self.piece = self.now() - began
        self.total += self.piece

    def alone(self, ids: torch.Tensor) -> None:
        """Reads tokens one by one; :attr:`single` is then the seconds of each."""
        began = self.now()
        for token in ids.split(1, dim=1):
            self.cache = self.model(input_ids=token, past_key_values=self.cache, use_cache=True).past_key_values
        self.single = (self.now() - began) / ids.shape[1]

    @property
    def held(self) -> tuple[int, int]:
        """Bytes of keys and values, and of the policy's state."""
        if self.memory is None:
            return held_bytes(self.cache), 0
        return self.memory.cache_bytes(), self.memory.state_bytes()


@contextmanager
def readers(options: Options) -> Iterator[tuple[Reader, Reader]]:
    """The full cache, and a NAMM with a budget."""
    now = time.perf_counter if options.clock == "wall" else time.process_time
    stock, ours = options.shape.build().model, options.shape.build().model
    with ExitStack() as stack:
        memory = stack.enter_context(modalities.attach(ours, make_policy("namm", namm=NAMM(), budget=options.budget)))
        stack.enter_context(torch.inference_mode())
        yield Reader(stock, None, now), Reader(ours, memory, now)


def row(tokens: int, options: Options, ours: Reader, full: Reader, gone_on: bool) -> str:
    """One line of the table; a dash where the full cache was given up."""
    cells = []
    for name, scale, unit in (("piece", 1e6 / options.shortest, "µs"), ("single", 1e3, "ms"), ("total", 1.0, "s")):
        mine, theirs = getattr(ours, name) * scale, getattr(full, name) * scale
        cells += [f"{theirs:.1f} {unit}" if gone_on else "—", f"{mine:.1f} {unit}"]
        cells += [f"{mine / theirs:.2f}x" if gone_on else "—"]
    held, state = (number / 2**20 for number in ours.held)
    cells += [f"{full.held[0] / 2**20:.2f} MiB" if gone_on else "—", f"{held:.2f} + {state:.2f} MiB"]
    return f"| {tokens:,} | " + " | ".join(cells) + " |"


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").partition("\n\n")[0])
    torch.set_num_threads(options.threads)
    pieces = options.longest // options.shortest
    print("| tokens | full: in a piece | NAMM | | alone | NAMM | | all so far | NAMM | | full holds | NAMM |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    random, gone_on = torch.Generator().manual_seed(1), True
    with readers(options) as (full, ours):
        for piece in range(1, pieces + 1):
            text = torch.randint(0, 1024, (1, options.shortest), generator=random)
            for reader in (full, ours) if gone_on else (ours,):
                reader.read(text)
            doubled = piece & (piece - 1) == 0
            if doubled or piece == pieces:
                for reader in (full, ours) if gone_on else (ours,):
                    reader.alone(text[:, : options.alone])
                print(row(piece * options.shortest, options, ours, full, gone_on), flush=True)
            gone_on = gone_on and full.piece < options.patience
            if not gone_on:
                full.cache = None


if __name__ == "__main__":
    main()
