"""The picture of what is held shows exactly what a memory holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluations.report.figures import png
from evaluations.report.kept_figures import COLUMNS, held_now, kept_tokens
from namm import Memory
from namm.errors import ConfigError
from namm.policies import make_policy
from tests.namm.test_memory import random_qkv


def test_held_now_is_what_the_memory_holds_of_each_row() -> None:
    memory = Memory(make_policy("window", budget=5, interval=16))
    query, key, value = random_qkv(2, 3, 1, 40, 8, seed=0)
    padding = torch.arange(40)[None] >= torch.tensor([[0], [10]])
    for layer in (0, 1):
        memory.attend(layer, query, key, value, padding)
    for row, tokens, held_positions in ((0, 40, [*range(27, 40)]), (1, 30, [*range(11, 30)])):
        held = held_now(memory, row)
        assert held.shape == (2, 3, tokens)
        assert all(np.flatnonzero(head).tolist() == held_positions for layer in held for head in layer)
    with pytest.raises(ConfigError, match="batch of 2, found 2"):
        held_now(memory, 2)
    with pytest.raises(ConfigError, match="batch of 0"):
        held_now(Memory(make_policy("full")))


def test_a_line_a_head_and_a_column_a_token() -> None:
    held = np.random.default_rng(0).random((3, 2, 50)) < 0.3
    figure = kept_tokens(held, prompt_tokens=40)
    tokens_axes, held_axes = figure.axes
    np.testing.assert_array_equal(tokens_axes.images[0].get_array(), held.reshape(6, 50))
    assert [text.get_text() for text in tokens_axes.get_yticklabels()] == [
        "0 · 0", "0 · 1", "1 · 0", "1 · 1", "2 · 0", "2 · 1"
    ]  # fmt: skip
    assert [bar.get_width() for bar in held_axes.patches] == pytest.approx(held.reshape(6, 50).mean(1).tolist())
    assert png(figure).startswith(b"\x89PNG")


def test_long_contexts_are_shown_as_shares_and_many_heads_by_layer() -> None:
    held = np.zeros((32, 8, 3 * COLUMNS), dtype=bool)
    held[:, :, ::3] = True
    figure = kept_tokens(held, title="mine")
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (256, COLUMNS)
    np.testing.assert_allclose(image, 1 / 3)
    assert len(figure.axes[0].get_yticks()) == 32
    assert figure.axes[0].get_title(loc="left") == "mine"
