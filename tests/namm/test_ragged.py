"""Ragged heads: each attends to its own tokens and no others, however they are grouped for the kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from namm import ragged
from namm.ragged import Layout

WIDTH = 8


def attend_slowly(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Head by head with a plain softmax."""
    out, log_sum, start = torch.zeros_like(query), torch.full(query.shape[:3], -torch.inf), 0
    for row in range(lengths.shape[0]):
        for head in range(lengths.shape[1]):
            stop = start + int(lengths[row, head])
            if stop > start:
                logits = scale * query[row, head] @ keys[start:stop].T
                out[row, head], log_sum[row, head] = logits.softmax(-1) @ values[start:stop], logits.logsumexp(-1)
            start = stop
    return out, log_sum


@pytest.mark.parametrize(
    ("lengths", "padded", "gathered", "groups"),
    [
        ([[5, 5], [5, 5]], 1 << 14, 1 << 17, 0),  # a rectangle already
        ([[5, 1], [9, 3]], 1 << 14, 1 << 17, 1),
        ([[5, 1], [9, 3]], 1 << 14, 9 * WIDTH, 4),  # no two heads fit one rectangle
        ([[1, 1], [9, 3]], 1 << 14, 2 * WIDTH, 3),  # the first two do
        ([[5, 0], [0, 3]], 1 << 14, 1 << 17, 1),  # heads that keep nothing
        ([[5, 0], [9, 3]], 4 * WIDTH, 1 << 17, 0),  # long ones go one by one
    ],
)
def test_every_grouping_equals_head_by_head(monkeypatch, lengths, padded, gathered, groups) -> None:
    monkeypatch.setattr(ragged, "PADDED_ELEMENTS", padded)
    monkeypatch.setattr(ragged, "GATHERED_ELEMENTS", gathered)
    generator = torch.Generator().manual_seed(0)
    held = torch.tensor(lengths)
    query = torch.randn(2, 2, 3, WIDTH, generator=generator)
    keys, values = torch.randn(2, int(held.sum()), WIDTH, generator=generator)
    layout = Layout(held, keys)
    assert len(layout.groups) == groups
    out, log_sum = layout.attend(query, keys, values, 0.4)
    expected, expected_sum = attend_slowly(query, keys, values, held, 0.4)
    torch.testing.assert_close(log_sum, expected_sum)
    seen = held > 0
    torch.testing.assert_close(out[seen], expected[seen])
    assert torch.isfinite(out).all()
