"""Attaches a Memory to any Hugging Face decoder through the library's public extension points.

A registered attention function calls ``memory.attend`` with the new keys and values only; a registered mask function
says which of them are real and how far back they look (``mask``); a ``Cache`` subclass answers positions
(``cache``); a forward pre-hook puts that cache in place of the one that ``generate`` makes, and refuses
what a memory cannot do (``call``). No class is patched, and on exit the model is as before. What depends on
the transformers release (5.17 to 5.x) is in these files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from modalities.base import as_policy
from modalities.huggingface.cache import CACHE_NAMES, MemoryCache, cache_argument, cache_name, cache_of
from modalities.huggingface.call import CacheInPlace, without_cache
from modalities.huggingface.counting import PictureCounter
from modalities.huggingface.heads import stored_once
from modalities.huggingface.mask import Reading, mask_codes, read_codes
from modalities.huggingface.wrappers import unwrapped
from namm import NAMM, Memory
from namm.errors import AttachError
from namm.policies import Policy
from namm.rules import AttentionRule

__all__ = [
    "CACHE_NAMES",
    "HARMLESS",
    "IMPLEMENTATION",
    "Attached",
    "attach",
    "cache_argument",
    "cache_name",
    "cache_of",
]

IMPLEMENTATION = "namm_memory"
"""Name under which the attention and mask functions are registered with transformers."""

_SLOT = "namm_attached_memory"

HARMLESS = {
    "cache", "cache_position", "is_causal", "logits_to_keep", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "output_router_logits", "past_key_values", "position_embeddings", "position_ids",
    "return_dict", "sliding_window", "use_cache",
}  # fmt: skip
"""Arguments of an attention function that change nothing beyond what the mask says."""


@contextmanager
def attach(model: Any, policy: Policy | NAMM, *, store: str = "packed", **options: Any) -> Iterator[Memory]:
    """Lets a policy govern a model's KV cache for the length of a ``with`` block.

    Inside it, ``generate()`` and plain forward calls of the model (or of the submodule given, such as a Decision
    Transformer's ``encoder``) use one memory. A call that brings no cache, or an empty one, starts new sequences; one
    that brings the cache of the last output continues them.

    Args:
        model: A decoder whose layers use transformers' attention interface; also as torch.compile, PEFT, or a
            DataParallel over one device wrap it.
        policy: A policy, or a NAMM to be used at its checkpoint's interval with the released selection rule.
        store: How the memory holds what is kept, "packed" or "padded" (:class:`namm.Memory`).
        options: For a NAMM: options of :func:`namm.policies.make_policy` (``interval``, ``statistics``, ...).

    Yields:
        The memory, for reports.

    Raises:
        AttachError: The model cannot be driven exactly; what of it shows only when it runs is raised by its first call.
    """
    policy = as_policy(policy, options)
    model, doors = unwrapped(model)
    decoder = _decoder(model)
    memory = Memory(policy, store=store)
    attached = Attached(MemoryCache(memory, decoder.config), PictureCounter(model))
    memory.depth = len(attached.cache.layers)
    _check_interface(decoder)
    _tell_rotations(memory, model)
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
        prepare = CacheInPlace(attached, model, decoder)
        for door in doors:  # torch types what `torch.compiler.disable` decorates as if it were no method
            hooks.append(door.register_forward_pre_hook(prepare, with_kwargs=True))  # pyright: ignore[reportArgumentType]
            hooks.append(door.register_forward_hook(attached.finish_call))  # pyright: ignore[reportAttributeAccessIssue]
        yield memory
    finally:
        attached.cache.family.closed = True
        for hook in hooks:
            hook.remove()
        if chunks is not None:
            chunks.prefill_chunk_size = chunk_before
        for module in modules:
            if hasattr(module, _SLOT):
                delattr(module, _SLOT)
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _tell_rotations(memory: Memory, model: PreTrainedModel) -> None:
    """Where the policy reads them."""
    if memory.policy.reads_rotation:
        # imported late: it attaches in its turn, to see what the model computes
        from modalities.huggingface.rotations import rotations_of

        memory.tell_rotations(rotations_of(model))


class Attached:
    """One attachment: the cache of the call that is running, and its masks.

    Attributes:
        cache: Of the running or the last call: the attachment's own, or a fork of it.
        wants_no_cache: Whether the output of the running call holds none.
        counter: Of positions in several dimensions.
    """

    def __init__(self, cache: MemoryCache, counter: PictureCounter) -> None:
        self.cache = self._own = cache
        self.counter = counter
        self.wants_no_cache = False
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

    def begin_call(self, wants_no_cache: bool) -> None:
        """A forward call begins.

        Args:
            wants_no_cache: Whether its output holds none, so that the next call reads everything again.
        """
        self.wants_no_cache = wants_no_cache
        self._masks = {}
        self._begun = self.memory.seen > 0
        self.cache.pending, self.cache.handed = {}, {}

    @torch.compiler.disable
    def finish_call(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook: no layer has kept its new tokens from the memory; the output is what the caller asked for."""
        self.cache.handed = {}
        self._check_all_attended()
        self.counter.after(self.cache)
        return without_cache(output, self.cache) if self.wants_no_cache else output

    def _check_all_attended(self) -> None:
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


def _decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model whose layers attend; refuses what cannot be driven through the attention interface."""
    name = type(model).__name__
    cache_argument(model)
    if model.config.is_encoder_decoder or getattr(model.config, "add_cross_attention", False):
        raise AttachError(
            f"{name} attends to an encoder too; only causal self-attention is exact under a Memory. It "
            "needs an adapter that leads its self-attention to memory.attend; examples/new_shape.py is one for Whisper."
        )
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


@torch.compiler.disable
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
    told = kwargs.get("is_causal")
    if (getattr(module, "is_causal", True) if told is None else told) is False:
        # whatever the mask says: where nothing is padded transformers leaves it out, and such a layer looks both ways
        raise AttachError(
            f"{name} attends both ways (is_causal is False, as use_bidirectional_attention makes it); only causal "
            "self-attention is exact under a Memory."
        )
    batch, _, tokens, _ = query.shape
    layer = attached.layer_of(module, tokens)
    said = attached.read(attention_mask, batch, tokens)
    rule = AttentionRule(local=said.local, softcap=softcap, sinks=s_aux)
    handed = attached.cache.handed.pop(layer, None)
    query, key, value, ordered = stored_once(query, key, value, handed if s_aux is None else None)
    out = ordered(attached.memory.attend(layer, query, key, value, said.padding, scaling, rule))
    return out.transpose(1, 2).contiguous(), None
