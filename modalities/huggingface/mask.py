"""What a model's mask says, in a form that a memory can use: which new tokens are real, and how far back they look.

transformers asks a registered function for each mask. Ours answers with a small tensor of codes, one for each new
token, in place of a matrix. Each rule that a model gives is tried at the edges of what it should show before it is
believed, so that a mask of another shape (bidirectional, a prefix, packed documents) is refused and never ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from namm.errors import AttachError
from namm.rules import Local

_MARK = 0x6E61 << 40
"""Upper bits of every code: a mask that a model has worked on after us does not carry them."""
_REFUSED = 1 << 39
_CHUNKED, _REAL = 2, 1
_WIDTH_SHIFT = 2
WHOLE_GRID = 1 << 24
"""Pairs of positions up to which a mask of unknown make is compared pair by pair."""
EDGE_TOKENS = 1 << 12
"""Asking tokens of one call at which a known mask is tried, at most."""

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_CAUSAL = cast("MaskFunction", causal_mask_function)  # transformers annotates integers, and passes tensors


@dataclass(frozen=True)
class Reading:
    """What one mask says of a call's new tokens."""

    padding: Bool[Tensor, "batch tokens"] | None
    """True for real tokens; None if all are."""

    local: Local | None
    """How far back they look."""


@torch.compiler.disable
def mask_codes(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = _CAUSAL,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Int[Tensor, "batch 1 tokens 1"]:
    """The registered mask function: a code for each new token.

    A mask that is neither causal nor a sliding window nor chunks has a code that is refused where it is used: models
    make masks for cross-attention that never runs.
    """
    device = device if attention_mask is None else attention_mask.device
    real = torch.ones(batch_size, q_length, dtype=torch.bool, device=device)
    pads = torch.zeros(batch_size, dtype=torch.long, device=device)
    if attention_mask is not None:
        real = attention_mask[:, -q_length:].bool()
        if real.shape[1] != q_length:
            raise AttachError(f"Expected a padding mask of at least {q_length} columns, found {real.shape[1]}.")
        pads = (attention_mask.cumsum(1) == 0).sum(1)
    code = _MARK
    if mask_function is not _CAUSAL:
        grid = _Grid(q_offset, q_length, kv_offset, kv_length, pads, attention_mask, mask_function)
        local = _recognised(grid, local_size, overlaid=use_vmap)
        if isinstance(local, Local):
            code |= local.width << _WIDTH_SHIFT | local.chunked * _CHUNKED
        elif local is False:
            code |= _REFUSED
    return (real.long() * _REAL + code)[:, None, :, None]


def read_codes(mask: Tensor, batch: int, tokens: int) -> Reading:
    """What a mask tensor says that has come back with a call of attention.

    Raises:
        AttachError: It is not one of :func:`mask_codes`, or not for these tokens.
    """
    if mask.dtype != torch.int64 or mask.dim() != 4 or tuple(mask.shape) != (batch, 1, tokens, 1):
        raise AttachError(
            f"Expected the mask made for {batch} x {tokens} new tokens, found {mask.dtype} {list(mask.shape)}: "
            "the model, or the caller, brings a mask of its own. Only causal attention with 2-D padding is exact under "
            "a memory that forgets; pass a 2-D attention_mask."
        )
    codes = mask[:, 0, :, 0]
    rules = (codes & ~_REAL).unique()
    if rules.numel() != 1 or int(rules) & (0xFFFF << 40) != _MARK:
        raise AttachError("The model changed its attention mask in a way that a memory does not know.")
    rule, real = int(rules) ^ _MARK, codes & _REAL == _REAL
    if rule & _REFUSED:
        raise AttachError(
            "The model's attention mask is neither causal nor a sliding window nor chunks (a prefix seen both ways, "
            "bidirectional blocks, packed documents?); a memory that forgets would compute something else. Where the "
            f"model lays masks of its own over these, up to {WHOLE_GRID} pairs of tokens are compared: feed shorter "
            "pieces (generate's prefill_chunk_size)."
        )
    width = rule >> _WIDTH_SHIFT
    return Reading(
        padding=None if bool(real.all()) else real,
        local=Local(width, chunked=bool(rule & _CHUNKED)) if width else None,
    )


@dataclass(frozen=True)
class _Grid:
    """A mask function, and for which columns it was made."""

    q_offset: int
    q_length: int
    kv_offset: int
    kv_length: int
    pads: Int[Tensor, " batch"]
    attention_mask: Tensor | None
    function: MaskFunction

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.q_length * self.kv_length * self.pads.shape[0]

    def everywhere(self) -> tuple[Int[Tensor, " askers"], Int[Tensor, "askers tokens"]]:
        """All pairs of this call."""
        asker = torch.arange(self.q_offset, self.q_offset + self.q_length)
        return asker, torch.arange(self.kv_offset, self.kv_offset + self.kv_length).expand(asker.shape[0], -1)

    def edges(self, width: int) -> tuple[Int[Tensor, " askers"], Int[Tensor, "askers tokens"]]:
        """Pairs at the edges of a window and of chunks: of this call, of the first few windows, and far beyond.

        A function that looks columns up in a tensor fails with an IndexError at the far one.
        """
        last = self.q_offset + self.q_length - 1
        own = torch.linspace(self.q_offset, last, min(self.q_length, EDGE_TOKENS)).round().long()
        first = torch.linspace(0, 4 * width, min(4 * width + 1, EDGE_TOKENS)).round().long()
        asker = torch.cat([own, first, torch.tensor([last + self.kv_length + 10**6])])
        back = torch.tensor((-1, 0, 1, 2, width // 2, width - 2, width - 1, width, width + 1, 2 * width, 3 * width + 1))
        start = asker[:, None] // width * width - torch.tensor([-1, 0, 1])
        return asker, torch.cat([asker[:, None] - back, start, torch.zeros_like(start)], dim=1).clamp_min(0)

    def agrees(self, local: Local | None, asker: Int[Tensor, " askers"], token: Int[Tensor, "askers tokens"]) -> bool:
        """Whether the function shows, at these pairs, what such a reach shows; padding aside."""
        device = self.pads.device
        asker, token = asker.to(device)[None, :, None], token.to(device)[None]
        batch = torch.arange(self.pads.shape[0], device=device)[:, None, None]
        shown = self.function(batch, torch.zeros((), dtype=torch.long, device=device), asker, token)
        wanted = token <= asker
        if local is not None:
            before = self.pads[:, None, None] if local.chunked else 0
            wanted = wanted & local.visible(asker - before, token - before)
        differs = shown != wanted
        if self.attention_mask is not None:
            real = self.attention_mask.bool()
            last = real.shape[1] - 1
            differs = differs & real[batch, token.clamp_max(last)] & real[batch, asker.clamp_max(last)]
        return not bool(differs.any())


def _recognised(grid: _Grid, local_size: int | None, overlaid: bool) -> Local | Literal[False] | None:
    """The reach that a mask function has, tried at its edges, or pair by pair where other masks lie over it.

    Returns:
        The reach; None if every earlier token is seen, False if the mask is something else or too large to be compared.
    """
    candidates = [None] if local_size is None else [Local(local_size), Local(local_size, chunked=True)]
    if overlaid or local_size is None:
        if grid.pairs > WHOLE_GRID:
            return False
        asker, token = grid.everywhere()
    else:
        asker, token = grid.edges(local_size)
    try:
        for local in candidates:
            if grid.agrees(local, asker, token):
                return local
    except IndexError:
        return False if overlaid else _recognised(grid, local_size, overlaid=True)
    return False
