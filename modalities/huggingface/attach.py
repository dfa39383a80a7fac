"""Attaches a Memory to any Hugging Face decoder through the library's public extension points.

A registered attention function calls ``memory.attend`` with the new keys and values only; a registered mask function
says which of them are real and how far back they look (``huggingface_mask``); a ``Cache`` subclass answers positions
(``huggingface_cache``); a forward pre-hook puts that cache in place of the one that ``generate`` makes. No class is
patched, and on exit the model is as before. What depends on the transformers release (5.17 to 5.x) is in these files.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache

from modalities.base import as_policy
from modalities.huggingface.cache import MemoryCache
from modalities.huggingface.mask import Reading, mask_codes, read_codes
from namm import NAMM, Memory
from namm.errors import AttachError
from namm.policies import Policy
from namm.rules import AttentionRule

IMPLEMENTATION = "namm_memory"
"""Name under which the attention and mask functions are registered with transformers."""

_SLOT = "namm_attached_memory"

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the cache, in arguments and outputs: since 5.24, and before (models on the Hub still do)."""

HARMLESS = {
    "cache", "cache_position", "is_causal", "logits_to_keep", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "output_router_logits", "past_key_values", "position_embeddings", "position_ids",
    "return_dict", "sliding_window", "use_cache",
}  # fmt: skip
"""Arguments of an attention function that change nothing beyond what the mask says."""


def cache_name(model: nn.Module) -> str | None:
    """The name of the cache among a model's arguments; None if it takes none."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in known), None)


def cache_argument(model: nn.Module) -> str:
    """The same, of a model that must take one.

    Raises:
        AttachError: It takes none.
    """
    name = cache_name(model)
    if name is None:
        names = " or ".join(CACHE_NAMES)
        inner = " Attach to its .encoder and drive that step by step." if hasattr(model, "encoder") else ""
        raise AttachError(f"{type(model).__name__}.forward takes no {names}, so it cannot cache.{inner}")
    return name


def cache_of(output: Any) -> Cache:
    """The cache in a model's output."""
    return next(getattr(output, name) for name in CACHE_NAMES if hasattr(output, name))


@contextmanager
def attach(model: PreTrainedModel, policy: Policy | NAMM, *, store: str = "packed", **options: Any) -> Iterator[Memory]:
    """Lets a policy govern a model's KV cache for the length of a ``with`` block.

    Inside it, ``generate()`` and plain forward calls of the model (or of the submodule given, such as a Decision
    Transformer's ``encoder``) use one memory. A call that brings no cache, or an empty one, starts new sequences; one
    that brings the cache of the last output continues them.

    Args:
        model: A decoder whose layers use transformers' attention interface.
        policy: A policy, or a NAMM to be used at its checkpoint's interval with the released selection rule.
        store: How the memory holds what is kept, "packed" or "padded" (:class:`namm.Memory`).
        options: For a NAMM: options of :func:`namm.policies.make_policy` (``interval``, ``statistics``, ...).

    Yields:
        The memory, for reports.

    Raises:
        AttachError: The model cannot be driven exactly; what of it shows only when it runs is raised by its first call.
    """
    policy = as_policy(policy, options)
    decoder = _decoder(model)
    memory = Memory(policy, store=store)
    attached = Attached(MemoryCache(memory, decoder.config))
    memory.depth = len(attached.cache.layers)
    _check_interface(decoder)
    if policy.reads_rotation:
        from modalities.huggingface.rotations import (
            rotations_of,  # which attaches in its turn, to see what the model computes
        )

        memory.tell_rotations(rotations_of(model))
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, mask_codes)
    configs = {id(m.config): m.config for m in decoder.modules() if isinstance(m, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    chunks = getattr(model, "generation_config", None)
    chunk_before = getattr(chunks, "prefill_chunk_size", None)
    modules = list(decoder.modules())
    hooks = []
    try:
        decoder.set_attn_implementation(IMPLEMENTATION)
        if chunks is not None and policy.eager_chunk is not None:
            chunks.prefill_chunk_size = policy.eager_chunk
        for module in modules:
            setattr(module, _SLOT, attached)
        hooks.append(model.register_forward_pre_hook(_CacheInPlace(attached, model), with_kwargs=True))
        hooks.append(model.register_forward_hook(attached.check_all_attended))
        yield memory
    finally:
        for hook in hooks:
            hook.remove()
        if chunks is not None:
            chunks.prefill_chunk_size = chunk_before
        for module in modules:
            if hasattr(module, _SLOT):
                delattr(module, _SLOT)
        for key, config in configs.items():
            config._attn_implementation = before[key]


class Attached:
    """One attachment: the cache of the call that is running, and its masks.

    Attributes:
        cache: Of the running or the last call: the attachment's own, or a fork of it.
    """

    def __init__(self, cache: MemoryCache) -> None:
        self.cache = self._own = cache
        self._masks: dict[int, tuple[Tensor, Reading]] = {}
        self._begun = torch.zeros(0, dtype=torch.bool)

    @property
    def memory(self) -> Memory:
        """Holds the tokens of the running call's sequences."""
        return self.cache.memory

    def begin(self) -> None:
        """New sequences follow, in the attachment's own memory; caches that earlier outputs brought end here."""
        if self._own.has_begun:
            self._own = self._own.successor()
        else:
            self._own.begin()
        self.cache = self._own

    def go_on(self, given: MemoryCache) -> None:
        """The sequences of this cache go on."""
        given.check_current()
        self.cache = given

    def layer_of(self, module: nn.Module, tokens: int) -> int:
        """Which layer attends now.

        Raises:
            AttachError: None can be told: the tokens attended are not those that were handed to the cache.
        """
        pending = self.cache.pending
        own: int | None = getattr(module, "layer_idx", None)
        index = own if own is not None and own in pending else next(iter(pending)) if len(pending) == 1 else None
        if index is not None and pending[index] == tokens:
            del pending[index]
            return index
        layers = self.cache.layers
        if own is not None and 0 <= own < len(layers) and not pending and type(layers[own]).__name__ == "DummyLayer":
            return own  # looks at the keys of an earlier layer, and remembers them by itself
        raise AttachError(
            f"{type(module).__name__} (layer {own}) attends to {tokens} tokens that were not handed to the cache; "
            f"handed over: {pending or 'nothing'}. Cross-attention, two attentions in one layer and calls past the "
            "attached model do not fit a Memory."
        )

    def read(self, mask: Tensor | None, batch: int, tokens: int) -> Reading:
        """What a mask says; each is read once a call."""
        if mask is None:
            return Reading(padding=None, local=None)
        if id(mask) not in self._masks:
            reading = read_codes(mask, batch, tokens)
            if self.cache.is_recurrent and reading.padding is not None:
                self._check_padding_comes_first(reading.padding)
            self._masks[id(mask)] = (mask, reading)  # the tensor is held, so that its id stays its own
        return self._masks[id(mask)][1]

    def begin_call(self) -> None:
        """A forward call begins."""
        self._masks = {}
        self._begun = self.memory.seen > 0
        self.cache.pending = {}

    def check_all_attended(self, *_: Any) -> None:
        """Forward hook: no layer has kept its new tokens from the memory."""
        self._masks = {}
        if self.cache.is_recurrent and not self.cache.holds_state:
            raise AttachError(
                "The model's recurrent layers keep their state outside the cache, where it does not follow when "
                "sequences begin, leave or are copied."
            )
        layers = self.cache.layers
        columns = {layer.columns for layer in layers if hasattr(layer, "columns")}
        silent = [index for index, layer in enumerate(layers) if hasattr(layer, "columns")]
        silent = [index for index in silent if index not in self.memory.layers]
        if self.cache.pending or silent or len(columns) > 1:
            raise AttachError(
                f"Layers {sorted(self.cache.pending) or silent} did not attend through transformers' attention "
                f"interface (columns seen by layers: {sorted(columns)}); a Memory sees nothing of such layers."
            )

    def _check_padding_comes_first(self, padding: Tensor) -> None:
        begun = self._begun if self._begun.numel() else torch.zeros(padding.shape[0], dtype=torch.bool)
        real = padding.cpu()
        if bool(((real.cumsum(1) > 0) | begun[:, None])[~real].any()):
            raise AttachError(
                "Recurrent layers read padding that comes after a sequence has begun as if it were input; with this "
                "model feed rows of equal length after the first call, or one sequence at a time."
            )


class _CacheInPlace:
    """Forward pre-hook: every call runs on the memory's cache."""

    def __init__(self, attached: Attached, model: PreTrainedModel) -> None:
        self.attached = attached
        self.signature = inspect.signature(model.forward)
        self.name = cache_argument(model)

    @property
    def cache(self) -> MemoryCache:
        """Of the running call."""
        return self.attached.cache

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = [kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None]  # callers may use the older name
        kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        given = named[0] if named else self.signature.bind_partial(*args).arguments.get(self.name)
        if isinstance(given, MemoryCache) and given.family is self.cache.family:
            self.attached.go_on(given)
        elif given is None or given.get_seq_length() == 0:
            self.attached.begin()
        else:
            raise AttachError(
                f"Expected no cache, an empty one, the one of the last output or a copy.deepcopy of such a one, found "
                f"{type(given).__name__} with {given.get_seq_length()} tokens; what it holds was never seen by the "
                "attached memory."
            )
        self.attached.begin_call()
        arguments = self.signature.bind_partial(*args, **kwargs).arguments
        self._check_nothing_is_hidden(arguments.get("attention_mask"))
        if self.cache.memory.policy.reads_tokens:
            self._tell_tokens(module, arguments)
        place = list(self.signature.parameters).index(self.name)
        if place < len(args):
            return (*args[:place], self.cache, *args[place + 1 :]), kwargs
        return args, {**kwargs, self.name: self.cache}

    def _check_nothing_is_hidden(self, mask: Any) -> None:
        """A mask must show just those earlier tokens that the memory was given as real ones."""
        seen, past = self.cache.memory.seen, self.cache.get_seq_length()
        if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != seen.shape[0] or mask.shape[1] <= past:
            return
        shown = mask[:, :past].bool().sum(1).cpu()
        if not torch.equal(shown, seen):
            raise AttachError(
                f"Expected an attention_mask that shows the {seen.tolist()} tokens of each row seen so far, found "
                f"{shown.tolist()}: a memory cannot hide what it was given as real, or show what was padding. Pass the "
                "mask that earlier calls had, with the new columns behind; generate() without one takes every "
                "pad_token_id in its input for padding."
            )

    def _tell_tokens(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        """Tells the memory which tokens the call is about."""
        ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
        if ids is None:
            raise AttachError(
                f"The policy {self.cache.memory.policy.name!r} reads token ids; expected {type(module).__name__} to be "
                "called with input_ids, found none. Call it with ids, or make the policy without ids of its own."
            )
        shown = mask[:, -ids.shape[1] :].bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self.cache.memory.tell_tokens(ids, shown)


def _decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model whose layers attend; refuses what cannot be driven through the attention interface."""
    if not isinstance(model, PreTrainedModel):
        raise AttachError(
            f"Expected a transformers PreTrainedModel, found {type(model).__name__}; write an adapter that calls "
            "memory.attend in its attention layers."
        )
    name = type(model).__name__
    cache_argument(model)
    if model.config.is_encoder_decoder or getattr(model.config, "add_cross_attention", False):
        raise AttachError(f"{name} attends to an encoder too; only causal self-attention is exact under a Memory.")
    # Any: only what can generate has this method, and no class of transformers says so
    if model.can_generate() and not cast("Any", model)._supports_default_dynamic_cache():
        raise AttachError(f"{name} keeps its past in a cache of its own make, which a Memory cannot stand in for.")
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    decoder = decoder if isinstance(decoder, PreTrainedModel) else model
    if any(hasattr(module, _SLOT) for module in decoder.modules()):
        raise AttachError(f"{name} is attached already; leave the first `with attach(...)` block.")
    return decoder


def _check_interface(decoder: PreTrainedModel) -> None:
    """Raises AttachError for a model whose attention no registered function replaces."""
    name = type(decoder).__name__
    if not decoder._can_set_attn_implementation():
        raise AttachError(
            f"{name} computes attention in its own code and not through transformers' attention interface; no Memory "
            "can take its place. It needs an adapter that calls memory.attend in its attention layers."
        )
    if not any(getattr(decoder, f"_supports_{kernel}", False) for kernel in ("sdpa", "flash_attn", "flex_attn")):
        raise AttachError(
            f"{name} allows no attention function but its own eager one, which may compute what no argument says; it "
            "needs an adapter that calls memory.attend in its attention layers."
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function: everything is the memory's business."""
    attached: Attached | None = getattr(module, _SLOT, None)
    if attached is None:
        raise AttachError(f"Attention '{IMPLEMENTATION}' runs only inside `with attach(model, policy)`.")
    name = type(module).__name__
    if dropout:
        raise AttachError(f"{name} asks for dropout {dropout}: call model.eval().")
    unknown = sorted(key for key, given in kwargs.items() if given is not None and key not in HARMLESS)
    if unknown:
        raise AttachError(f"{name} asks for {unknown}, which a Memory does not compute; this model needs an adapter.")
    if kwargs.get("is_causal", getattr(module, "is_causal", True)) is False and attention_mask is None:
        raise AttachError(f"{name} is not causal; only causal self-attention is exact under a Memory.")
    batch, _, tokens, _ = query.shape
    layer = attached.layer_of(module, tokens)
    said = attached.read(attention_mask, batch, tokens)
    rule = AttentionRule(local=said.local, softcap=softcap, sinks=s_aux)
    out = attached.memory.attend(layer, query, key, value, said.padding, scaling, rule)
    return out.transpose(1, 2).contiguous(), None
