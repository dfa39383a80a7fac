"""One Llama with random weights, read and continued against the clock, and the least that this can cost.

What is needed at least is arithmetic, over the rate of large matrix products in the same type, and bytes that must be
read for a token, over the rate at which a processor reads memory. Both rates are measured, where the measurements run.
Imports nothing of this project: a peer's environment runs it too.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

WARM_UP = 64
NEW_TOKENS = 48

Clock = Literal["wall", "processor"]
"""What counts as time: the wall's, or this process's own, which others disturb less (one thread only)."""


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    layers: int = 6
    """Layers."""
    width: int = 512
    """Of the residual stream."""
    heads: int = 8
    """Query heads."""
    kv_heads: int = 2
    """Heads of keys and values."""
    inner: int = 1376
    """Width of the MLP."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights, arithmetic and cache."""

    def build(self) -> Any:
        """A model without training, the same each time."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=1024, hidden_size=self.width, intermediate_size=self.inner, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, max_position_embeddings=131_072,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval().to(getattr(torch, self.dtype))

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def weights(self) -> int:
        """Numbers that every token is multiplied with."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.width * self.inner)

    def prefill_operations(self, tokens: int, pairs: int, spectra: bool = False) -> float:
        """Additions and multiplications without which a prompt cannot be read.

        Args:
            tokens: Of the prompt.
            pairs: How many (query, token) pairs each head looks at.
            spectra: Whether the STFT of each KV head's columns counts too: 32 samples to 17 complex bins, every 16.
        """
        attention = 4 * self.head_dim * self.heads * pairs
        return 2 * self.weights * tokens + self.layers * (attention + (136 * self.kv_heads * pairs if spectra else 0))

    @property
    def width_of_number(self) -> int:
        """Bytes."""
        return getattr(torch, self.dtype).itemsize

    def kv_bytes(self, tokens: float) -> float:
        """Bytes of the keys and values of so many tokens."""
        return 2.0 * self.width_of_number * self.layers * self.kv_heads * self.head_dim * tokens

    def step_bytes(self, tokens: float) -> float:
        """Bytes that a new token cannot but read: the weights, and the keys and values of so many tokens."""
        return self.width_of_number * self.weights + self.kv_bytes(tokens)


def pairs_seen(tokens: int, budget: int | None = None, interval: int = 512) -> int:
    """(query, token) pairs that a head looks at when it keeps at most ``budget`` tokens after every interval."""
    if budget is None:
        return tokens * (tokens + 1) // 2
    pairs, held = 0, 0
    for start in range(0, tokens, interval):
        asked = min(interval, tokens - start)
        pairs += asked * held + asked * (asked + 1) // 2
        held = min(budget, held + asked)
    return pairs


@dataclass(frozen=True)
class Rates:
    """What this processor does in a second."""

    operations: float
    """Of square matrix products."""
    bytes_read: float
    """Of memory that is in no cache."""

    @classmethod
    def measured(cls, threads: int, dtype: str = "float32", clock: Clock = "wall") -> Rates:
        """The best of some tries each, products in that type, by the clock that the rest is measured by."""
        torch.set_num_threads(threads)
        side, long = torch.randn(1536, 1536).to(getattr(torch, dtype)), torch.randn(1 << 26)
        product = min(_seconds(lambda: side @ side, clock) for _ in range(5))
        return cls(2 * 1536**3 / product, long.nbytes / min(_seconds(long.sum, clock) for _ in range(5)))


def _seconds(work: Callable[[], Any], clock: Clock) -> float:
    now = time.perf_counter if clock == "wall" else time.process_time
    began = now()
    work()
    return now() - began


def peak_bytes() -> int:
    """The most that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Timing:
    """Of one prompt and what followed."""

    prefill: float
    """Seconds."""
    step: float
    """Seconds a new token."""
    peak: int
    """Bytes by which the process grew."""
    cache: Any
    """The model's own cache."""


def timed(
    model: Any, tokens: int, clock: Clock = "wall", new: int = NEW_TOKENS, reading: Callable[[], Any] | None = None
) -> Timing:
    """Reads a prompt of random tokens, then new ones; something shorter was read before, outside the clock.

    Args:
        model: From :meth:`Shape.build`.
        tokens: Of the prompt.
        clock: What counts as time.
        new: Tokens that follow, one by one.
        reading: A context to read the prompt in, and nothing else (a peer's hooks); None for none.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    ids = torch.randint(0, 1024, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = model.model(input_ids=ids[:, :WARM_UP], use_cache=True).past_key_values
        model.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        before = peak_bytes()
        began = now()
        with (reading or nullcontext)():
            cache = model.model(input_ids=ids, use_cache=True).past_key_values
        prefill = now() - began
        began = now()
        for place in range(tokens, tokens + new):
            position = torch.tensor([[place]])  # where a peer has dropped keys, its cache no longer tells
            model.model(input_ids=ids[:, -1:], past_key_values=cache, position_ids=position, use_cache=True)
        step = (now() - began) / max(1, new)
    return Timing(prefill, step, peak_bytes() - before, cache)


def held_bytes(cache: Any) -> int:
    """Bytes of keys and values in a cache of transformers."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
