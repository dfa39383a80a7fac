"""Attaches a Memory to any Hugging Face decoder through the library's public extension points.

A registered attention function calls ``memory.attend`` with the new keys and values only; a ``Cache`` subclass
answers positions (tokens seen, not tokens held); a forward pre-hook puts that cache in place of the one that
``generate`` makes. No class is patched, and on exit the model is as before. Everything that depends on the
transformers release (5.17 to 5.x) is in this file.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from namm import NAMM, Memory
from namm.errors import AttachError
from namm.policies import Policy, make_policy

IMPLEMENTATION = "namm_memory"
"""Name under which the attention and mask functions are registered with transformers."""

_SLOT = "namm_attached_memory"

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the cache, in arguments and outputs: since 5.24, and before (models on the Hub still do)."""


def cache_name(model: nn.Module) -> str | None:
    """The name of the cache among a model's arguments; None if it takes none."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in known), None)


def cache_of(output: Any) -> Cache:
    """The cache in a model's output."""
    return next(getattr(output, name) for name in CACHE_NAMES if hasattr(output, name))


@contextmanager
def attach(model: PreTrainedModel, policy: Policy | NAMM, **options: Any) -> Iterator[Memory]:
    """Lets a policy govern a model's KV cache for the length of a ``with`` block.

    Inside it, ``generate()`` and plain forward calls of the model (or of the submodule given, such as a Decision
    Transformer's ``encoder``) use one memory. A call that brings no cache, or an empty one, starts new sequences; one
    that brings the cache of the last output continues them.

    Args:
        model: A decoder whose layers use transformers' attention interface.
        policy: A policy, or a NAMM to be used at its checkpoint's interval with the released selection rule.
        options: For a NAMM: options of :func:`namm.policies.make_policy` (``interval``, ``statistics``, ...).

    Yields:
        The memory, for reports.

    Raises:
        AttachError: The model cannot be driven exactly (encoder-decoder, sliding windows, already attached).
    """
    if isinstance(policy, NAMM):
        options.setdefault("interval", policy.config.interval)
        policy = make_policy("namm", namm=policy, **options)
    elif options:
        raise AttachError(f"Options {sorted(options)} go with a NAMM; give them to make_policy instead.")
    layers = _attention_modules(model)
    memory = Memory(policy, depth=len(layers))
    cache = MemoryCache(memory, len(layers))
    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _padding_of_new_tokens)
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    hook = None
    chunks = getattr(model, "generation_config", None)
    chunk_before = getattr(chunks, "prefill_chunk_size", None)
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        if chunks is not None and policy.eager_chunk is not None:
            chunks.prefill_chunk_size = policy.eager_chunk
        for layer in layers:
            setattr(layer, _SLOT, memory)
        hook = model.register_forward_pre_hook(_CacheInPlace(cache, model), with_kwargs=True)
        yield memory
    finally:
        if hook is not None:
            hook.remove()
        if chunks is not None:
            chunks.prefill_chunk_size = chunk_before
        for layer in layers:
            if hasattr(layer, _SLOT):
                delattr(layer, _SLOT)
        for key, config in configs.items():
            config._attn_implementation = before[key]


class MemoryCache(Cache):
    """What transformers sees of a Memory: positions, and a place to hand new keys and values to."""

    def __init__(self, memory: Memory, layers: int) -> None:
        """A cache of a fixed number of layers over one memory."""
        super().__init__(layers=[MemoryCacheLayer() for _ in range(layers)])
        self.memory = memory

    def begin(self) -> None:
        """Forgets everything: new sequences follow."""
        self.memory.reset()
        for layer in self.layers:
            layer.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: rows are copied and dropped."""
        self.memory.select_sequences(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        self.memory.select_sequences(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        self.memory.select_sequences(torch.arange(self.memory.seen.shape[0]).repeat_interleave(repeats))

    def crop(self, *_: Any, **__: Any) -> None:
        """Refused: what an update has judged cannot be taken back."""
        raise AttachError("A Memory cannot be cropped; use decoding without assistant models or rollbacks.")


class MemoryCacheLayer(CacheLayerMixin):
    """Counts columns (padding included, as position arithmetic wants it); the memory holds the tensors."""

    is_sliding = False
    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.columns = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Nothing to prepare."""
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Passes the new keys and values on; the attention function stores them."""
        self.is_initialized = True
        self.columns += key_states.shape[-2]
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Columns seen."""
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the 2-D padding mask covers, and where they begin."""
        return self.columns + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No limit (the name before 5.23)."""
        return -1

    def reset(self) -> None:
        """Back to no columns."""
        self.columns = 0


class _CacheInPlace:
    """Forward pre-hook: every call runs on the memory's cache."""

    def __init__(self, cache: MemoryCache, model: PreTrainedModel) -> None:
        self.cache = cache
        self.signature = inspect.signature(model.forward)
        self.name = cache_name(model)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        named = [kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None]  # callers may use the older name
        kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        given = named[0] if named else self.signature.bind_partial(*args).arguments.get(self.name)
        if given is None or (given is not self.cache and given.get_seq_length() == 0):
            self.cache.begin()
        elif given is not self.cache:
            raise AttachError(
                f"Expected no cache, an empty one, or the one of the last output, found {type(given).__name__} with "
                f"{given.get_seq_length()} tokens; what it holds was never seen by the attached memory."
            )
        if self.cache.memory.policy.reads_tokens:
            self._tell_tokens(module, self.signature.bind_partial(*args, **kwargs).arguments)
        place = list(self.signature.parameters).index(self.name)
        if place < len(args):
            return (*args[:place], self.cache, *args[place + 1 :]), kwargs
        return args, {**kwargs, self.name: self.cache}

    def _tell_tokens(self, module: nn.Module, arguments: dict[str, Any]) -> None:
        """Tells the memory which tokens the call is about."""
        ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
        if ids is None:
            raise AttachError(
                f"The policy {self.cache.memory.policy.name!r} reads token ids; expected {type(module).__name__} to be "
                "called with input_ids, found none. Call it with ids, or make the policy without ids of its own."
            )
        padded = isinstance(mask, Tensor) and mask.dim() == 2
        self.cache.memory.tell_tokens(ids, mask[:, -ids.shape[1] :].bool() if padded else None)


def _attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The attention layers, in order; refuses what a Memory would compute wrongly."""
    if not isinstance(model, PreTrainedModel):
        raise AttachError(
            f"Expected a transformers PreTrainedModel, found {type(model).__name__}; write an adapter that calls "
            "memory.attend in its attention layers."
        )
    if cache_name(model) is None:
        inner = " Attach to its .encoder and drive that step by step." if hasattr(model, "encoder") else ""
        names = " or ".join(CACHE_NAMES)
        raise AttachError(f"{type(model).__name__}.forward takes no {names}, so it cannot cache.{inner}")
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False) or kinds != {"full_attention"}:
        raise AttachError(
            f"{type(model).__name__} mixes in attention that a Memory does not model (encoder-decoder: "
            f"{config.is_encoder_decoder}, layer types: {sorted(kinds)}); only full causal self-attention is exact."
        )
    found = [m for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int) and hasattr(m, "config")]
    found = [m for m in found if "attention" in type(m).__name__.lower()]
    if [m.layer_idx for m in found] != list(range(len(found))) or not found:
        raise AttachError(
            f"Expected one attention module a layer, numbered from 0, found indices {[m.layer_idx for m in found]} in "
            f"{type(model).__name__}; attach to the decoder submodule."
        )
    if any(hasattr(module, _SLOT) for module in found):
        raise AttachError(f"{type(model).__name__} is attached already; leave the first `with attach(...)` block.")
    return found


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function: everything is the memory's business."""
    memory: Memory | None = getattr(module, _SLOT, None)
    if memory is None:
        raise AttachError(f"Attention '{IMPLEMENTATION}' runs only inside `with attach(model, policy)`.")
    unsupported = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if unsupported or dropout:
        what = f"dropout {dropout}: call model.eval()" if dropout else f"{unsupported}: such layers are not supported"
        raise AttachError(f"{type(module).__name__} asks for {what}.")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise AttachError(
            f"Expected a 2-D padding mask, found {attention_mask.dim()} dimensions; custom 4-D masks do not fit a "
            "memory that forgets."
        )
    out = memory.attend(module.layer_idx, query, key, value, attention_mask, scaling)
    return out.transpose(1, 2), None


def _padding_of_new_tokens(
    batch_size: int, q_length: int, attention_mask: Tensor | None = None, **_: Any
) -> Tensor | None:
    """The registered mask function: which of the new tokens are real, or None if all are."""
    if attention_mask is None:
        return None
    new = attention_mask[:, -q_length:].bool()
    return None if bool(new.all()) else new
