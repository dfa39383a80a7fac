"""The released code's behaviour, slow and obvious: a Llama and a NAMM in plain torch, one sequence, lists of tensors.

Nothing of the project is used: probabilities are materialised, spectra come from an FFT, backward attention from a mask
over all pairs, survivors from a sort.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

CHUNK, PERIOD, WINDOW, HOP, DECAY = 128, 512, 32, 16, 0.99
END = 1
"""Token that generation never chooses."""


@dataclass
class Shape:
    """A tiny Llama."""

    heads: int
    kv_heads: int
    layers: int
    hidden: int = 64
    mlp: int = 96
    vocabulary: int = 97
    theta: float = 500_000.0
    epsilon: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def random_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Weights under their Hugging Face names, large enough that attention is uneven."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator) * 0.35

    narrow = shape.kv_heads * shape.head_dim
    weights = {"model.embed_tokens.weight": draw(shape.vocabulary, shape.hidden)}
    for layer in range(shape.layers):
        name = f"model.layers.{layer}."
        weights[f"{name}self_attn.q_proj.weight"] = draw(shape.hidden, shape.hidden)
        weights[f"{name}self_attn.k_proj.weight"] = draw(narrow, shape.hidden)
        weights[f"{name}self_attn.v_proj.weight"] = draw(narrow, shape.hidden)
        weights[f"{name}self_attn.o_proj.weight"] = draw(shape.hidden, shape.hidden)
        weights[f"{name}mlp.gate_proj.weight"] = draw(shape.mlp, shape.hidden)
        weights[f"{name}mlp.up_proj.weight"] = draw(shape.mlp, shape.hidden)
        weights[f"{name}mlp.down_proj.weight"] = draw(shape.hidden, shape.mlp)
        weights[f"{name}input_layernorm.weight"] = torch.ones(shape.hidden)
        weights[f"{name}post_attention_layernorm.weight"] = torch.ones(shape.hidden)
    return {**weights, "model.norm.weight": torch.ones(shape.hidden), "lm_head.weight": draw(97, shape.hidden)}


@dataclass
class Layer:
    """What one layer remembers; heads always hold equally many tokens."""

    keys: Tensor
    values: Tensor
    positions: Tensor  # [kv_heads, tokens]
    spectrum: Tensor  # [kv_heads, tokens, 17]
    tail: Tensor  # [kv_heads, tokens, 16]
    blocks: list[Tensor] = field(default_factory=list)


class ReleasedRun:
    """One prompt and its greedy continuation."""

    def __init__(
        self,
        shape: Shape,
        weights: dict[str, Tensor],
        flat: Tensor,
        mean: Tensor,
        variance: Tensor,
        dtype: torch.dtype,
        cache_size: int | None = None,
    ) -> None:
        self.shape, self.dtype, self.cache_size = shape, dtype, cache_size
        self.weights = {name: weight.to(dtype) for name, weight in weights.items()}
        self.flat, self.mean = flat, mean
        self.deviation = variance.sqrt().clamp_min(1e-7)
        width = shape.head_dim
        base = shape.theta * (2 * 4 - (2 - 1)) ** (width / (width - 2))
        self.frequencies = (1.0 / base ** (torch.arange(0, width, 2).float() / width)).to(dtype).float()
        self.seen = 0
        self.kept: dict[tuple[int, int], Tensor] = {}
        heads = shape.kv_heads
        self.layers = [
            Layer(
                torch.empty(heads, 0, width, dtype=dtype), torch.empty(heads, 0, width, dtype=dtype),
                torch.empty(heads, 0, dtype=torch.long), torch.empty(heads, 0, 17), torch.empty(heads, 0, 16),
            )
            for _ in range(shape.layers)
        ]  # fmt: skip

    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        """Greedy continuation; the last token is never fed."""
        for start in range(0, len(prompt), CHUNK):
            logits = self.forward(prompt[start : start + CHUNK])
        generated: list[int] = []
        for _ in range(tokens):
            if generated:
                logits = self.forward(generated[-1:])
            logits[END] = -torch.inf
            generated.append(int(logits.argmax()))
        return generated

    def forward(self, ids: list[int]) -> Tensor:
        """Logits of the last token; then, at multiples of the period, every layer's update."""
        hidden = self.weights["model.embed_tokens.weight"][torch.tensor(ids)]
        positions = torch.arange(self.seen, self.seen + len(ids))
        for index, layer in enumerate(self.layers):
            name = f"model.layers.{index}."
            normed = self.normed(hidden, f"{name}input_layernorm.weight")
            hidden = hidden + self.attention(normed, layer, f"{name}self_attn.", positions)
            normed = self.normed(hidden, f"{name}post_attention_layernorm.weight")
            gate = torch.nn.functional.silu(self.linear(normed, f"{name}mlp.gate_proj.weight"))
            up = self.linear(normed, f"{name}mlp.up_proj.weight")
            hidden = hidden + self.linear(gate * up, f"{name}mlp.down_proj.weight")
        self.seen += len(ids)
        if self.seen % PERIOD == 0:
            for index, layer in enumerate(self.layers):
                self.kept[self.seen // PERIOD - 1, index] = self.update(layer)
        return self.linear(self.normed(hidden[-1:], "model.norm.weight"), "lm_head.weight")[0].float()

    def linear(self, rows: Tensor, name: str) -> Tensor:
        return torch.nn.functional.linear(rows, self.weights[name])

    def normed(self, rows: Tensor, name: str) -> Tensor:
        wide = rows.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.shape.epsilon)
        return self.weights[name] * wide.to(self.dtype)

    def attention(self, rows: Tensor, layer: Layer, name: str, positions: Tensor) -> Tensor:
        shape, tokens = self.shape, rows.shape[0]
        query, key, value = (
            self.linear(rows, f"{name}{part}_proj.weight").view(tokens, -1, shape.head_dim).transpose(0, 1)
            for part in "qkv"
        )
        angle = torch.cat([positions[:, None].float() * self.frequencies] * 2, dim=-1)
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        query, key = (part * cos + half_turned(part) * sin for part in (query, key))
        layer.keys = torch.cat([layer.keys, key], dim=1)
        layer.values = torch.cat([layer.values, value], dim=1)
        layer.positions = torch.cat([layer.positions, positions.expand(shape.kv_heads, -1)], dim=1)

        group = shape.heads // shape.kv_heads
        out, rows_of_heads = [], []
        every = torch.stack([layer.keys[head // group] for head in range(shape.heads)])
        logits = torch.matmul(query, every.transpose(1, 2)) / math.sqrt(shape.head_dim)
        slots = layer.keys.shape[1]
        for asker in range(tokens):
            logits[:, asker, slots - tokens + asker + 1 :] = torch.finfo(self.dtype).min
        weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(self.dtype)
        out = torch.matmul(weights, torch.stack([layer.values[head // group] for head in range(shape.heads)]))
        rows_of_heads = [weights[head * group : (head + 1) * group].mean(0) for head in range(shape.kv_heads)]
        layer.blocks.append(torch.stack(rows_of_heads))
        return self.linear(out.transpose(0, 1).reshape(tokens, -1), f"{name}o_proj.weight")

    def update(self, layer: Layer) -> Tensor:
        """Judges every token of a layer; returns the kept positions."""
        slots = layer.keys.shape[1]
        wide = [torch.nn.functional.pad(block, (0, slots - block.shape[2])) for block in layer.blocks]
        signal = torch.cat(wide, dim=1).transpose(1, 2)  # [kv_heads, slots, 512]
        layer.blocks = []
        new = slots - layer.tail.shape[1]
        before = torch.nn.functional.pad(layer.tail, (0, 0, 0, new))
        layer.spectrum = torch.nn.functional.pad(layer.spectrum, (0, 0, 0, new))
        padded = torch.cat([before.to(signal.dtype), signal], dim=-1)
        hann = torch.hann_window(WINDOW, periodic=True)
        average = layer.spectrum * DECAY**PERIOD
        frames = PERIOD // HOP
        frame_decay = DECAY**HOP
        for frame in range(frames):
            magnitude = torch.fft.rfft(padded[..., frame * HOP : frame * HOP + WINDOW] * hann).abs()
            average = average + (1 - frame_decay) * frame_decay ** (frames - 1 - frame) * magnitude
        layer.spectrum, layer.tail = average, signal[..., -HOP:]

        age = layer.positions[:, -1:] - layer.positions
        phase = age[..., None].double() * torch.tensor([50_000.0 ** (-j / 4) for j in range(4)]).double()
        recency = torch.cat([phase.sin(), phase.cos()], dim=-1).float()
        scores = self.scores(torch.cat([recency, (average - self.mean) / self.deviation], dim=-1))
        scores[:, -1] = torch.finfo(torch.float32).max
        best = scores if self.cache_size is None else scores.sort(dim=1, descending=True).values[:, : self.cache_size]
        most = int((best >= 0).sum(1).max())
        index = scores.topk(most, dim=1).indices.sort(dim=1).values
        for name in ("keys", "values", "positions", "spectrum", "tail"):
            held = getattr(layer, name)
            setattr(layer, name, torch.stack([rows[mine] for rows, mine in zip(held, index, strict=True)]))
        return layer.positions

    def scores(self, features: Tensor) -> Tensor:
        sizes = (("qkv", 25, 96), ("out", 32, 50), ("score", 25, 1))
        parts, place = {}, 0
        for name, inner, outer in sizes:
            matrix = self.flat[place : place + inner * outer].view(inner, outer)
            place += inner * outer
            parts[name] = matrix, self.flat[place : place + outer]
            place += outer
        query, key, value = (features @ parts["qkv"][0] + parts["qkv"][1]).split(32, dim=-1)
        logits = query @ key.transpose(1, 2) / math.sqrt(32)
        older = torch.ones(logits.shape[1:], dtype=torch.bool).tril(-1)
        attended = logits.masked_fill(older, torch.finfo(torch.float32).min).softmax(-1) @ value
        additive, multiplicative = (attended @ parts["out"][0] + parts["out"][1]).split(25, dim=-1)
        hidden = features * (1 + multiplicative) + additive
        return (hidden @ parts["score"][0] + parts["score"][1]).squeeze(-1)


def half_turned(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
