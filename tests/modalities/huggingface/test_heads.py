"""A KV head that a model repeats before its attention is held once, and the output is what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from modalities import attach
from modalities.conformance.tiny_models import tiny_model
from modalities.huggingface.heads import stored_once
from namm.policies import make_policy


@pytest.mark.parametrize(
    "repeated", [lambda states: states.repeat(1, 3, 1, 1), lambda states: states.repeat_interleave(3, 1)]
)
def test_repeated_heads_are_held_once(repeated: Callable[[Tensor], Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    handed = torch.randn(2, 2, 5, 4, generator=draw), torch.randn(2, 2, 5, 6, generator=draw)
    query = torch.randn(2, 12, 5, 4, generator=draw)
    wanted = scaled_dot_product_attention(query, *map(repeated, handed), enable_gqa=True)
    grouped, key, value, ordered = stored_once(query, *map(repeated, handed), handed)
    assert key.shape[1] == value.shape[1] == 2
    torch.testing.assert_close(ordered(scaled_dot_product_attention(grouped, key, value, enable_gqa=True)), wanted)


def test_heads_that_are_no_repetition_stay_as_they_are() -> None:
    handed = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    other = torch.arange(48.0).view(1, 4, 3, 4)
    assert stored_once(other, other, other, handed)[1] is other
    assert stored_once(other, other, other, None)[1] is other


def test_jetmoe_which_repeats_them_holds_what_stock_holds() -> None:
    model, ids = tiny_model("jetmoe"), torch.arange(10, 50)[None]
    with torch.no_grad():
        stock = model(ids)
        with attach(model, make_policy("full")) as memory:
            ours = model(ids)
    torch.testing.assert_close(ours.logits, stock.logits, atol=1e-4, rtol=1e-4)
    assert memory.layers[0].cache.kv_heads == model.config.num_key_value_heads
