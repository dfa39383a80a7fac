"""The language part starts near the circuit that answers rest on, as in mimetic initialisation.

From a random start a model of this size sits on a plateau where it answers with anything it has seen. The way off it is
a circuit: a question's word finds the squares that show it and copies what else they show; the last token copies what
the question's words found. For the order of things, squares carry a code of the shape that came before (which the
training asks of them), and a word finds that code in its own squares, or the squares that carry its code. Here the
weights start near that, and are then trained like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from checkpoints.recipes.video_vocabulary import words
from checkpoints.recipes.video_words import CATEGORIES
from evaluations.tasks.video.drawing import COLOURS, SHAPES
from evaluations.tasks.video.questions import plural

MATCH_GAIN = 1.5
"""Strength of a look at tokens that are alike."""

COPY_GAIN = 0.5
"""Scale of what is copied."""

SIDE_SHARE = 0.4
"""Size of the component that tells squares from words, over that of a token."""

SIDE_GAIN = (1.4, 1.7, 2.4, 2.8)
"""Strength of keeping to one side, by layer: what tokens have found makes the component smaller beside the rest."""

NORM = 15.0
"""Size of tokens at the start: in small ones, what is found first drowns the rest."""

SLOW_PAIRS = 7 / 16
"""Rotary pairs from this fraction on turn less than half a radian within a clip: the match uses only them."""

CODE_SEED = 0xC0DE

Rows = Float[Tensor, "rows width"]


def order_codes(width: int) -> tuple[Rows, Rows]:
    """For each shape, what stands in a token for "this came before" and for "this came after"."""
    codes = torch.randn(2, len(SHAPES), width, generator=torch.Generator().manual_seed(CODE_SEED))
    codes[..., 0] = 0.0
    return codes[0], codes[1]


@dataclass(frozen=True)
class _Head:
    """What a key-value head and its first query head compute at the start; a row a component."""

    query: Rows
    key: Rows
    value: Rows
    out: Rows
    across: bool
    """Looks from words at squares, or from words at words."""

    def put(self, attention: nn.Module, index: int, side: float) -> None:
        """Writes it to key-value head `index`; `side` is the strength of keeping to one side."""
        size = attention.head_dim
        slow = (torch.arange(size) % (size // 2) >= size * SLOW_PAIRS // 2).nonzero()[:, 0]
        keys, values = slice(index * size, (index + 1) * size), slice(index * size, index * size + len(self.value))
        start = index * attention.num_key_value_groups * size
        queries, outs = slice(start, start + size), slice(start, start + len(self.out))
        key, query = (torch.zeros(size, self.value.shape[1]) for _ in range(2))
        rows = slow[: len(self.key)]
        key[rows], query[rows] = self.key[: len(rows)], self.query[: len(rows)]
        key[-1, 0], query[-1, 0] = side, -side if self.across else side
        attention.k_proj.weight[keys], attention.q_proj.weight[queries] = key, query
        attention.v_proj.weight[values], attention.o_proj.weight[:, outs] = self.value, COPY_GAIN * self.out.T


@torch.no_grad()
def start_near_answers(model: nn.Module, squares: Float[Tensor, "squares width"]) -> float:
    """Changes an aligned model in place.

    Args:
        model: a video model whose squares fit their words (`video_alignment.align`).
        squares: tokens of some squares, after the projector.

    Returns:
        How much larger the fits of squares with words are now.
    """
    inner = model.model
    language = inner.language_model
    embedded, last = language.embed_tokens.weight, inner.multi_modal_projector.linear_2
    growth = NORM / squares.norm(dim=1).mean(), NORM / embedded.norm(dim=1).mean()
    # Every fit of a square with a word changes alike, so they stay aligned.
    last.weight[0], last.bias[0] = 0.0, 0.0
    embedded[:, 0] = 0.0
    model.lm_head.weight.copy_(embedded)  # what is copied from a square is then an answer
    last.weight.mul_(growth[0])
    last.bias.mul_(growth[0])
    embedded.mul_(growth[1])
    last.bias[0], embedded[:, 0] = SIDE_SHARE * NORM, -SIDE_SHARE * NORM
    size = language.layers[0].self_attn.head_dim
    circuit = zip(language.layers, _circuit(model.lm_head.weight, size), SIDE_GAIN, strict=False)
    for layer, heads, side in circuit:
        for index, head in enumerate(heads[: model.config.text_config.num_key_value_heads]):
            head.put(layer.self_attn, index, side)
    return float(growth[0] * growth[1])


def _circuit(meanings: Rows, size: int) -> list[list[_Head]]:
    """By layer, the heads that are put in place."""
    ids = {word: index for index, word in enumerate(words())}
    named = [*SHAPES, *map(plural, SHAPES), *COLOURS]
    slow = size - 2 * int(size * SLOW_PAIRS // 2) - 1
    match = _directions(meanings[[ids[word] for word in named]], slow)
    answers = _directions(meanings[[ids[word] for category in CATEGORIES for word in category]], size)
    earlier, later = (_unit(code) for code in order_codes(meanings.shape[1]))
    shapes = _unit(meanings[[ids[shape] for shape in SHAPES]])
    none = torch.zeros(1, meanings.shape[1])
    gather = _Head(none, none, answers, answers, across=False)
    return [
        [_Head(MATCH_GAIN * match, match, answers, answers, across=True)],
        [gather, _Head(MATCH_GAIN * match, match, earlier, earlier, across=True)],
        [gather, _Head(2 * MATCH_GAIN * shapes, earlier, shapes, later, across=True)],
        [_Head(none, none, code, shapes, across=False) for code in (earlier, later)],
    ]


def _directions(rows: Rows, count: int) -> Rows:
    """The orthonormal directions in which the rows differ most."""
    return torch.linalg.svd(_unit(rows), full_matrices=False).Vh[:count]


def _unit(rows: Rows) -> Rows:
    return rows / rows.norm(dim=1, keepdim=True)
