"""How much a model's loss leans on each token of its cache: the derivative by a bias on the token's logits.

The bias is added to what every query of a chunk gives a (layer, KV head, token); at zero its derivative says what a
little more weight for the token would do to the loss. There no bias is really added: attention runs fused, and its
backward pass recomputes the probabilities block by block and leaves the sums beside. Elsewhere, where tokens are half
forgotten, probabilities are computed chunk by chunk both ways. No attention matrix is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from namm.errors import AttachError, ConfigError

IMPLEMENTATION = "namm_token_gradients"
"""Name under which the attention function is registered with transformers."""

BLOCK = 256
"""Queries whose probabilities exist at one time, rounded to whole chunks."""

SINK: ContextVar[tuple[dict[int, Tensor], int, Tensor | None]] = ContextVar("token_gradients")
"""Where sums go, by layer, the chunk they are taken over, and the bias of all layers."""


def token_gradients(
    model: PreTrainedModel,
    ids: Int[Tensor, " tokens"],
    wanted: Bool[Tensor, " tokens"],
    chunk: int,
    bias: Float[Tensor, "layers kv_heads chunks read"] | None = None,
) -> tuple[Float[Tensor, "layers kv_heads chunks read"], float]:
    """Derivatives of the loss of the wanted tokens, one a layer, KV head, chunk of queries and token.

    Args:
        model: A decoder whose layers see all earlier tokens.
        ids: One sequence; the last token is predicted but not read.
        wanted: Tokens whose negative log-likelihoods are summed; the first cannot be wanted.
        chunk: Queries that share a bias.
        bias: Where derivatives are taken; None: at zero.

    Returns:
        The derivatives (negative: more weight helps; one token fewer is read than there are), and the loss in nats.

    Raises:
        AttachError: A layer attends otherwise than this pass understands.
        ConfigError: No token is wanted, or the first.
    """
    if not bool(wanted.any()) or bool(wanted[0]):
        raise ConfigError("Some token after the first must be wanted, found none or the first; say which.")
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"Expected a causal language model, found {type(model).__name__}, which predicts no tokens.")
    sums: dict[int, Tensor] = {}
    asked = wanted[1:].nonzero().squeeze(1)
    with _differentiated(model), torch.enable_grad():
        told = SINK.set((sums, chunk, bias))
        try:
            read = model.get_input_embeddings()(ids[None, :-1]).detach().requires_grad_()
            hidden = model.base_model(inputs_embeds=read, use_cache=False).last_hidden_state
            leaf = hidden.detach()[0, asked].requires_grad_()
            loss = 0.0
            for start in range(0, len(asked), BLOCK):  # the vocabulary is wide: some tokens at a time
                some = slice(start, start + BLOCK)
                logits = head(leaf[some]).float()
                part = cross_entropy(logits, ids[1:][asked[some]], reduction="sum")
                part.backward()
                loss += part.item()
            upwards = torch.zeros_like(hidden)
            upwards[0, asked] = leaf.grad
            hidden.backward(upwards)
        finally:
            SINK.reset(told)
    return torch.stack([sums[layer][0] for layer in sorted(sums)]), loss


@contextmanager
def _differentiated(model: PreTrainedModel) -> Iterator[None]:
    """The model with this attention and without gradients of its weights, then as it was."""
    before = cast("str", model.config._attn_implementation)  # None only while a model is being made
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for weight in trained:
            weight.requires_grad_(True)


class _Attention(torch.autograd.Function):
    """Causal attention whose backward pass also sums the derivatives of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        layer: int,
        sums: dict[int, Tensor],
        chunk: int,
        bias: Tensor | None,
    ) -> Tensor:
        """[batch, heads, tokens, width] of each."""
        if bias is None:
            out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        else:
            out = torch.empty_like(query)
            for start, stop in _blocks(query.shape[2], chunk, bias):
                asked = _grouped(query[:, :, start:stop], key.shape[1])
                found = _chances(asked, key, start, stop, scale, chunk, bias).to(value.dtype) @ value[:, :, :stop]
                out[:, :, start:stop] = found.view_as(out[:, :, start:stop])
        ctx.save_for_backward(query, key, value, out, bias)
        ctx.facts = (scale, layer, sums, chunk)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Recomputes the probabilities, a block of queries at a time."""
        query, key, value, out, bias = ctx.saved_tensors
        scale, layer, sums, chunk = ctx.facts
        batch, heads, tokens, _ = query.shape
        kv, group = key.shape[1], heads // key.shape[1]
        d_query, d_key, d_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        found = torch.zeros(batch, kv, -(-tokens // chunk), tokens)
        lean = (grad.float() * out.float()).sum(-1)  # what a softmax subtracts
        for start, stop in _blocks(tokens, chunk, bias):
            q, g, less = (_grouped(part[:, :, start:stop], kv) for part in (query, grad, lean))
            keys, values = key[:, :, :stop], value[:, :, :stop]
            chances = _chances(q, key, start, stop, scale, chunk, bias)
            d_logits = (g @ values.transpose(-1, -2)).float().sub_(less.unsqueeze(-1)).mul_(chances)
            by_query = d_logits.view(batch, kv, group, stop - start, stop).sum(2)
            for number in range(start // chunk, -(-stop // chunk)):
                own = slice(number * chunk - start, min((number + 1) * chunk, stop) - start)
                found[:, :, number, :stop] = by_query[:, :, own].sum(2).to(found.device)
            d_logits, chances = d_logits.to(query.dtype), chances.to(query.dtype)
            d_query[:, :, start:stop] = (d_logits @ keys * scale).view(batch, heads, stop - start, -1)
            d_key[:, :, :stop] += d_logits.transpose(-1, -2) @ q * scale
            d_value[:, :, :stop] += chances.transpose(-1, -2) @ g
        sums[layer] = found
        return d_query, d_key, d_value, None, None, None, None, None


def _blocks(tokens: int, chunk: int, bias: Tensor | None) -> Iterator[tuple[int, int]]:
    """First and last-but-one query of those taken at one time: whole chunks, one where it has a bias of its own."""
    step = chunk if bias is not None else max(chunk, BLOCK // chunk * chunk)
    for start in range(0, tokens, step):
        yield start, min(start + step, tokens)


def _grouped(part: Tensor, kv_heads: int) -> Tensor:
    """The heads of a group behind each other on the query axis."""
    return part.reshape(part.shape[0], kv_heads, -1, *part.shape[3:])


def _chances(
    asked: Float[Tensor, "batch kv_heads group_queries width"],
    key: Float[Tensor, "batch kv_heads tokens width"],
    start: int,
    stop: int,
    scale: float,
    chunk: int,
    bias: Float[Tensor, "kv_heads chunks tokens"] | None,
) -> Float[Tensor, "batch kv_heads group_queries stop"]:
    """Probabilities of some queries over all tokens up to the last of them, in fp32."""
    logits = (asked @ key[:, :, :stop].transpose(-1, -2)).float().mul_(scale)
    if bias is not None:
        logits += bias[:, start // chunk, None, :stop]
    place = torch.arange(stop - start, device=asked.device)
    hidden = (place > place[:, None]).repeat(asked.shape[2] // (stop - start), 1)
    logits[..., start:].masked_fill_(hidden, -torch.inf)  # all before is seen by all of the block
    return logits.softmax(-1)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **said: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls."""
    for name in ("sliding_window", "softcap", "s_aux", "head_mask"):
        if said.get(name) is not None:
            raise AttachError(f"Derivatives by token need plain causal attention, found {name}={said[name]!r}.")
    scale = said.get("scaling") or query.shape[-1] ** -0.5
    sums, chunk, bias = SINK.get()
    layer = cast("int", module.layer_idx)
    own = None if bias is None else bias[layer]
    out = _Attention.apply(query, key, value, scale, layer, sums, chunk, own)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _attend)
AttentionMaskInterface.register(IMPLEMENTATION, lambda *_, **__: None)
