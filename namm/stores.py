"""What a layer's store of keys and values offers, however its kept tokens lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.errors import UnknownNameError, did_you_mean

StoreName = Literal["packed", "padded"]
"""How kept tokens lie: without a gap, or short heads filled up to one rectangle."""
Part = Literal["keys", "values"]


def check_store(store: str) -> StoreName:
    """The store of that name.

    Raises:
        UnknownNameError: There is none.
    """
    for known in get_args(StoreName):
        if known == store:
            return known
    raise UnknownNameError(f"Unknown store {store!r}. {did_you_mean(store, get_args(StoreName))}")


class Store(ABC):
    """Kept keys and values of one layer, and those of the interval, which are its tail.

    The tail alone is written to: what is kept changes by making another store of some rows of this one, and is written
    to then or never (:meth:`writable_keys`), before anybody shares it.

    Attributes:
        keys: All that is kept; whether the tail is among it is the store's own affair.
        values: Likewise.
        lengths: ``[batch, kv_heads]`` kept tokens, on the CPU.
    """

    keys: Tensor
    values: Tensor
    lengths: Int[Tensor, "batch kv_heads"]

    @property
    @abstractmethod
    def tail_keys(self) -> Float[Tensor, "batch kv_heads room head_dim"]:
        """Where keys of the interval are written."""

    @property
    @abstractmethod
    def tail_values(self) -> Float[Tensor, "batch kv_heads room value_dim"]:
        """Where values of the interval are written."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens of the head that keeps most."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of keys and values allocated, spare room and filling included."""

    @property
    @abstractmethod
    def mask_bytes(self) -> int:
        """Bytes of what says which slots are filling."""

    @abstractmethod
    def reserve(self, room: int) -> None:
        """Makes room in the tail for so many tokens."""

    @abstractmethod
    def trim(self, room: int) -> None:
        """Gives back the tail's room beyond so many tokens, where that frees anything worth it."""

    @abstractmethod
    def kept(
        self, part: Part, index: Int[Tensor, "batch kv_heads slots"], span: slice, rows: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, "rows kv_heads some width"]:
        """See :meth:`namm.cache.LayerCache.kept`."""

    @abstractmethod
    def attend(
        self, query: Float[Tensor, "batch kv_heads queries head_dim"], scale: float, softcap: float | None = None
    ) -> tuple[Float[Tensor, "batch kv_heads queries value_dim"], Float[Tensor, "batch kv_heads queries"]] | None:
        """Output over kept tokens alone, which every query sees, and log-sum-exp of the logits; None where none is."""

    @abstractmethod
    def rows(self, part: Part) -> Float[Tensor, "rows width"]:
        """Kept slots and all of the tail, row by row."""

    @abstractmethod
    def places(
        self, index: Int[Tensor, "batch kv_heads slots"]
    ) -> tuple[Int[Tensor, "batch kv_heads slots"], Int[Tensor, "batch kv_heads room"]]:
        """Which of these rows are kept slots, padded at the old end, and which the tail."""

    @abstractmethod
    def packed(self, source: Int[Tensor, " survivors"], lengths: Int[Tensor, "batch kv_heads"]) -> Store:
        """A packed store of some rows, head after head, and this store's tail."""

    @abstractmethod
    def writable_keys(
        self, batch: Int[Tensor, " tokens"], head: Int[Tensor, " tokens"], slot: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "rows head_dim"], Int[Tensor, " tokens"]]:
        """All keys as rows, a view, and the rows of some kept tokens, given their places among their head's."""

    @abstractmethod
    def fork(self) -> Store:
        """The same, going its own way."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " rows"], index: Int[Tensor, " packed"]) -> Store:
        """These sequences, in this order.

        Args:
            rows: Which; one may appear more than once.
            index: Their kept tokens, counted over all heads without a gap.
        """


def survivors_of(
    kept: Int[Tensor, "batch kv_heads slots"],
    tail: Int[Tensor, "batch kv_heads room"],
    stay: Bool[Tensor, "batch kv_heads slots_and_interval"],
) -> Int[Tensor, " survivors"]:
    """Rows of what stays, head after head; see :meth:`Store.places`."""
    every = torch.cat([kept, tail[:, :, : stay.shape[2] - kept.shape[2]]], dim=2)
    return every[stay]
