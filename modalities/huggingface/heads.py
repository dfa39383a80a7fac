"""Keys that a model repeats for its query heads between its cache and its attention: a memory holds each head once.

Most models hand keys over as they are, and attention repeats them. Some repeat them first: each head several times in
a row, or all heads several times over. The second asks for another order of query heads, which is undone in the output.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def stored_once(
    query: Float[Tensor, "batch query_heads tokens head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    value: Float[Tensor, "batch heads tokens value_dim"],
    handed: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Query, key and value with each KV head once, and what brings an output into the order of the query's heads.

    Args:
        query: As the model attends with it.
        key: Likewise, repeated or not.
        value: Likewise.
        handed: Key and value as the model gave them to its cache; None where it gave none.
    """
    if handed is None or handed[0].shape[1] == key.shape[1] or key.shape[1] % handed[0].shape[1]:
        return query, key, value, _as_it_is
    heads, times = handed[0].shape[1], key.shape[1] // handed[0].shape[1]
    if all(
        torch.equal(given.repeat_interleave(times, 1), used) for given, used in zip(handed, (key, value), strict=True)
    ):
        return query, *handed, _as_it_is
    if all(torch.equal(given.repeat(1, times, 1, 1), used) for given, used in zip(handed, (key, value), strict=True)):
        group = query.shape[1] // key.shape[1]
        order = torch.arange(query.shape[1], device=query.device).view(times, heads, group).transpose(0, 1).flatten()
        return query[:, order], *handed, lambda out: out[:, order.argsort()]
    return query, key, value, _as_it_is


def _as_it_is(out: Tensor) -> Tensor:
    return out
