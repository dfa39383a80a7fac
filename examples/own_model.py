"""A model of your own by one call of `memory.attend`: `python examples/own_model.py`.

A small GPT written from scratch, in the manner of nanoGPT. What makes it fit for any policy are the lines marked 1 to
3; no adapter and nothing of Hugging Face is needed. `namm-check examples/own_model.py:build` examines it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modalities import attach
from namm import Memory
from namm.policies import make_policy

VOCABULARY, WIDTH, HEADS, LAYERS, POSITIONS = 96, 64, 4, 3, 1024


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, memory: Memory | None) -> Tensor:
        """Attends over the tokens given, or over all that a memory has kept and these."""
        heads = self.project(hidden).unflatten(-1, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if memory is None:
            found = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            found = memory.attend(self.layer, query, key, value)  # 1: in its place
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.attention, self.before, self.between = Attention(layer), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, hidden: Tensor, memory: Memory | None) -> Tensor:
        """One layer."""
        hidden = hidden + self.attention(self.before(hidden), memory)
        return hidden + self.perceptron(self.between(hidden))


class GPT(nn.Module):
    """Predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(Block(layer) for layer in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.memory: Memory | None = None  # 2: where `attach` puts one

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of whole sequences, or with a memory of the new tokens alone."""
        begun = self.memory is not None and self.memory.seen.numel() > 0
        seen = (
            self.memory.seen[:, None].to(ids.device) if begun else 0
        )  # 3: positions count what was SEEN, not what is held
        hidden = self.tokens(ids) + self.positions(seen + torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            hidden = block(hidden, self.memory)
        return self.head(self.norm(hidden))


def build() -> GPT:
    """A model with random weights; wide ones, so that attention is far from uniform."""
    torch.manual_seed(0)
    model = GPT()
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


@torch.inference_mode()
def main() -> None:
    """Reads a prompt, generates, and says what was held."""
    model, prompt = build(), torch.randint(VOCABULARY, (1, 300), generator=torch.Generator().manual_seed(1))
    with attach(model, make_policy("h2o", interval=64, budget=48)) as memory:
        token = model(prompt)[:, -1:].argmax(-1)
        for _ in range(20):
            token = model(token)[:, -1:].argmax(-1)
    print(memory.report())


if __name__ == "__main__":
    main()
