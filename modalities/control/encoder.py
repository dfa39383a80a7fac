"""A Decision Transformer's encoder as plain tensor operations on a memory, for the few new tokens of one step.

What `attach` arranges through transformers' extension points costs more time around a small model's matrix products
than in them: modules, decorators, masks, a cache object. Here the same operations run in the same order on the same
weights, and in the last layer only the newest token goes on behind attention: nothing else of it is ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from namm.memory import Memory

if TYPE_CHECKING:
    from transformers.pytorch_utils import Conv1D

HAS_ONEDNN = torch.backends.mkldnn.is_available()
MANY_ROWS = 16
"""From so many rows on a product is worth setting oneDNN up for."""


class StepEncoder:
    """The stock encoder, one step at a time; use `StepEncoder.of`."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        # looked up once: a module's attributes cost more than many of the operations on them
        self.blocks = [
            _Block(
                _Norm.of(block.ln_1),
                _Product.of(block.attn.c_attn),
                _Product.of(block.attn.c_proj),
                _Norm.of(block.ln_2),
                _Product.of(block.mlp.c_fc),
                _Product.of(block.mlp.c_proj),
                block.mlp.act,
                block.attn.num_heads,
                block.attn.head_dim,
                block.attn.scaling,
            )
            for block in encoder.h
        ]
        self.last_norm = _Norm.of(encoder.ln_f)

    @classmethod
    def of(cls, encoder: nn.Module) -> StepEncoder | None:
        """The encoder to step with, or None where anything about it is not as transformers made it.

        A hook, an adapter layer or another class must be called as it is: such a model runs through `attach` alone.
        """
        from transformers.models.decision_transformer import modeling_decision_transformer as stock
        from transformers.pytorch_utils import Conv1D

        if type(encoder) is not stock.DecisionTransformerGPT2Model or encoder.config.add_cross_attention:
            return None
        for block in cast("Iterable[Any]", encoder.h):  # no type says what a ModuleList holds
            parts = {
                block: stock.DecisionTransformerGPT2Block,
                block.attn: stock.DecisionTransformerGPT2Attention,
                block.mlp: stock.DecisionTransformerGPT2MLP,
                **dict.fromkeys((block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj), Conv1D),
                **dict.fromkeys((block.ln_1, block.ln_2), nn.LayerNorm),
            }
            if any(type(part) is not expected for part, expected in parts.items()):
                return None
        inner = [module for module in encoder.modules() if module is not encoder]
        if any(module._forward_hooks or module._forward_pre_hooks for module in inner):
            return None
        return cls(encoder)

    def __call__(self, embedded: Float[Tensor, "batch tokens width"], memory: Memory) -> Float[Tensor, "batch width"]:
        """The last hidden state of the newest token; all tokens are stored in the memory.

        Args:
            embedded: Embeddings of the new tokens, time included.
            memory: What the layers attend to.
        """
        batch, tokens, width = embedded.shape
        # every token has position 0: wpe[0] is a constant bias, and time is in the embeddings
        hidden = (embedded + self.encoder.wpe.weight[0]).view(-1, width)
        for index, block in enumerate(self.blocks):
            heads = (batch, tokens, block.heads, block.head_dim)
            query, key, value = block.project(block.before_attention(hidden)).split(width, dim=1)
            attended = memory.attend(
                index,
                query.view(heads).transpose(1, 2),
                key.view(heads).transpose(1, 2),
                value.view(heads).transpose(1, 2),
                scale=block.scale,
            )
            attended = attended.transpose(1, 2)  # [batch, tokens, heads, head_dim]
            if index == len(self.blocks) - 1:
                attended, hidden = attended[:, -1], hidden.view(batch, tokens, width)[:, -1]
            hidden = hidden + block.join(attended.reshape(-1, width))
            hidden = hidden + block.narrow(block.activation(block.widen(block.before_mlp(hidden))))
        return self.last_norm(hidden)


class _Norm(NamedTuple):
    """A layer normalisation."""

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, layer: nn.LayerNorm) -> _Norm:
        return cls(layer.normalized_shape, layer.weight, layer.bias, layer.eps)

    def __call__(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        return torch.layer_norm(rows, self.shape, self.weight, self.bias, self.eps)


class _Product(NamedTuple):
    """A `Conv1D`: rows times a matrix, plus a bias."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Conv1D) -> _Product:
        return cls(layer.weight, layer.bias)

    def __call__(self, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows out"]:
        return affine(self, rows)


class _Block(NamedTuple):
    """One layer's operations, in order."""

    before_attention: _Norm
    project: _Product
    join: _Product
    before_mlp: _Norm
    widen: _Product
    narrow: _Product
    activation: Callable[[Tensor], Tensor]
    heads: int
    head_dim: int
    scale: float


def affine(layer: Conv1D | _Product, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows out"]:
    """Rows times a `Conv1D`'s matrix, plus its bias.

    oneDNN's product in fp32 is twice as fast as the default one where that does not use a processor's widest vectors.
    """
    weight, bias = layer.weight, layer.bias
    known = rows.device.type == "cpu" and rows.dtype == weight.dtype == torch.float32
    if known and rows.shape[0] >= MANY_ROWS and HAS_ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(rows.contiguous(), weight.t(), bias, "none", [], "")
    return torch.addmm(bias, rows, weight)
