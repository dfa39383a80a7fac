"""A Decision Transformer's encoder as plain tensor operations on a memory, for the few new tokens of one step.

What `attach` arranges through transformers' extension points costs more time around a small model's matrix products
than in them: modules, decorators, masks, a cache object. Here the same operations run in the same order on the same
weights, and in the last layer only the newest token goes on behind attention: nothing else of it is ever read.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from namm.memory import Memory

MANY_ROWS = 16
"""From so many rows on a product is worth setting oneDNN up for."""


class StepEncoder:
    """The stock encoder, one step at a time; use `StepEncoder.of`."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    @classmethod
    def of(cls, encoder: nn.Module) -> StepEncoder | None:
        """The encoder to step with, or None where anything about it is not as transformers made it.

        A hook, an adapter layer or another class must be called as it is: such a model runs through `attach` alone.
        """
        from transformers.models.decision_transformer import modeling_decision_transformer as stock
        from transformers.pytorch_utils import Conv1D

        if type(encoder) is not stock.DecisionTransformerGPT2Model or encoder.config.add_cross_attention:
            return None
        for block in encoder.h:
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
        for index, block in enumerate(self.encoder.h):
            attention = block.attn
            heads = (batch, tokens, attention.num_heads, attention.head_dim)
            query, key, value = affine(attention.c_attn, _normed(block.ln_1, hidden)).split(width, dim=1)
            attended = memory.attend(
                index,
                *(part.view(heads).transpose(1, 2) for part in (query, key, value)),
                scale=attention.scaling,
            )
            attended = attended.transpose(1, 2)  # [batch, tokens, heads, head_dim]
            if index == len(self.encoder.h) - 1:
                attended, hidden = attended[:, -1], hidden.view(batch, tokens, width)[:, -1]
            hidden = hidden + affine(attention.c_proj, attended.reshape(-1, width))
            hidden = hidden + affine(
                block.mlp.c_proj, block.mlp.act(affine(block.mlp.c_fc, _normed(block.ln_2, hidden)))
            )
        return _normed(self.encoder.ln_f, hidden)


def affine(layer: nn.Module, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows out"]:
    """Rows times a `Conv1D`'s matrix, plus its bias.

    oneDNN's product in fp32 is twice as fast as the default one where that does not use a processor's widest vectors.
    """
    known = rows.device.type == "cpu" and rows.dtype == layer.weight.dtype == torch.float32
    if known and len(rows) >= MANY_ROWS and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(rows.contiguous(), layer.weight.t(), layer.bias, "none", [], "")
    return torch.addmm(layer.bias, rows, layer.weight)


def _normed(layer: nn.LayerNorm, rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    return layer_norm(rows, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
