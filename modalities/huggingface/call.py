"""Every call of an attached model: which sequences it goes on with, and whether a memory can do what it asks.

A call is looked at before the model runs. What of it a memory would leave out in silence is refused here: attention
weights that nobody computes, masks that do not fit the columns so far, packed documents, the cache of sequences that
have ended.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modalities.huggingface.cache import CACHE_NAMES, MemoryCache, MemoryCacheLayer, cache_argument
from namm.errors import AttachError

if TYPE_CHECKING:
    from modalities.huggingface.attach import Attached


class CacheInPlace:
    """Forward pre-hook: every call runs on the memory's cache."""

    def __init__(self, attached: Attached, model: PreTrainedModel, decoder: PreTrainedModel) -> None:
        """A hook.

        Args:
            attached: The attachment.
            model: Whose forward is called.
            decoder: The part of it that attends.
        """
        self.attached, self.configs = attached, (model.config, decoder.config)
        self.signature = inspect.signature(model.forward)
        self.name = cache_argument(model)

    @torch.compiler.disable
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Puts the memory's cache in the place of the caller's."""
        named = [kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None]  # callers may use the older name
        kwargs = {name: value for name, value in kwargs.items() if name not in CACHE_NAMES}
        given = named[0] if named else self.signature.bind_partial(*args).arguments.get(self.name)
        asked = self._asked(args, kwargs)
        self._check_weights_are_not_wanted(asked)
        self._go_on_with(given)
        through_a_wrapper = self.attached.wants_no_cache and given is self.attached.cache  # nobody else can have it
        wants_none = given is None and self._option(asked, "use_cache") is False
        self.attached.begin_call(wants_no_cache=wants_none or through_a_wrapper)
        self._check_nothing_is_hidden(asked)
        self._check_documents_are_not_packed(asked)
        self.attached.counter.before(self.attached.cache, asked, self.attached.memory.seen)
        if self.attached.memory.policy.reads_tokens:
            self._tell_tokens(module, asked)
        place = list(self.signature.parameters).index(self.name)
        if place < len(args):
            return (*args[:place], self.attached.cache, *args[place + 1 :]), kwargs
        return args, {**kwargs, self.name: self.attached.cache}

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments by name."""
        found = dict(self.signature.bind_partial(*args, **kwargs).arguments)
        for parameter in self.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                found |= found.pop(parameter.name, {})
        return found

    def _option(self, asked: dict[str, Any], name: str) -> Any:
        """What the call says, or else a configuration."""
        told = [asked.get(name), *(getattr(config, name, None) for config in self.configs)]
        return next((value for value in told if value is not None), None)

    def _check_weights_are_not_wanted(self, asked: dict[str, Any]) -> None:
        wanted = asked.get("output_attentions")
        if wanted or (wanted is None and any(getattr(config, "output_attentions", False) for config in self.configs)):
            raise AttachError(
                "Expected a call without output_attentions (an argument, or a field of the configuration), found it "
                "True: a memory attends without ever making the weights. Leave it out; for the weights of the stock "
                "model call it outside of the block, with attn_implementation='eager'."
            )

    def _go_on_with(self, given: Any) -> None:
        """Begins new sequences, or makes sure that those of the given cache are the ones that the memory holds."""
        cache = self.attached.cache
        if given is None:
            self.attached.begin()
        elif isinstance(given, MemoryCache) and given.family is cache.family:
            self.attached.go_on(given)
            self._check_was_not_reset()
        elif cache.stands_for(given):
            self._check_was_not_reset()
        elif not hasattr(given, "get_seq_length") or int(given.get_seq_length()):
            raise AttachError(
                f"Expected no cache, an empty one, or the one of the last output, found {_told(given)}; "
                + (
                    "its sequences have ended, since a later call began others or their block is over, or it is a copy "
                    "of a cache that only stands for a memory's (copy the cache of the output instead). A memory holds "
                    "one batch of sequences: put those that go on side by side into one batch (classifier-free "
                    "guidance and contrastive decoding alternate between two, and cannot run)."
                    if _is_a_memorys(given)
                    else "what it holds was never seen by the attached memory."
                )
            )
        else:
            self.attached.begin()
            self.attached.cache.stand_in_for(given)

    def _check_was_not_reset(self) -> None:
        cache = self.attached.cache
        if cache.get_seq_length() and not cache.memory.layers:
            raise AttachError(
                f"Expected the {cache.get_seq_length()} tokens that the given cache has seen in the memory, found "
                "none: it was reset. Call the model without a cache."
            )

    def _check_nothing_is_hidden(self, asked: dict[str, Any]) -> None:
        """A mask must show just those earlier tokens that the memory was given as real ones."""
        mask, tokens = asked.get("attention_mask"), _new_tokens(asked)
        seen, past = self.attached.memory.seen, self.attached.cache.get_seq_length()
        if mask is None and past and bool((seen != past).any()):
            raise AttachError(
                f"Expected an attention_mask, since earlier calls had padding (tokens of each row {seen.tolist()}, "
                f"columns {past}), found none, which shows it; pass the mask that earlier calls had, with the new "
                "columns behind."
            )
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return
        if tokens is not None and mask.shape[1] != past + tokens:
            raise AttachError(
                f"Expected an attention_mask of {past + tokens} columns ({past} seen so far and {tokens} new), found "
                f"{mask.shape[1]}; pass the mask that earlier calls had, with the new columns behind."
            )
        if mask.shape[0] != seen.shape[0] or mask.shape[1] <= past:
            return
        shown = mask[:, :past].bool().sum(1).cpu()
        if not torch.equal(shown, seen):
            raise AttachError(
                f"Expected an attention_mask that shows the {seen.tolist()} tokens of each row seen so far, found "
                f"{shown.tolist()}: a memory cannot hide what it was given as real, or show what was padding. Pass the "
                "mask that earlier calls had, with the new columns behind; generate() without one takes every "
                "pad_token_id in its input for padding."
            )

    def _check_documents_are_not_packed(self, asked: dict[str, Any]) -> None:
        """Without a cache and a mask transformers takes positions that jump for several documents in a row."""
        positions = asked.get("position_ids")
        if not self.attached.wants_no_cache or asked.get("attention_mask") is not None:
            return
        if isinstance(positions, Tensor) and positions.dim() == 2 and bool((positions.diff(dim=1) != 1).any()):
            raise AttachError(
                "Expected position_ids that count on, found jumps, by which transformers packs several documents into "
                "a row where there is neither a cache nor a mask. Give each document a row of its own, padded on the "
                "left."
            )

    def _tell_tokens(self, module: nn.Module, asked: dict[str, Any]) -> None:
        """Tells the memory which tokens the call is about."""
        ids, mask = asked.get("input_ids"), asked.get("attention_mask")
        if ids is None:
            raise AttachError(
                f"The policy {self.attached.memory.policy.name!r} reads token ids; expected {type(module).__name__} to "
                "be called with input_ids, found none. Call it with ids, or make the policy without ids of its own."
            )
        shown = mask[:, -ids.shape[1] :].bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self.attached.memory.tell_tokens(ids, shown)


def _told(given: Any) -> str:
    """A cache in words."""
    held = f" with {int(given.get_seq_length())} tokens" if hasattr(given, "get_seq_length") else ""
    return type(given).__name__ + held


def _is_a_memorys(given: Any) -> bool:
    """Whether a cache counts, or has counted, what a memory has seen."""
    return any(isinstance(layer, MemoryCacheLayer) for layer in getattr(given, "layers", ()))


def _new_tokens(asked: dict[str, Any]) -> int | None:
    """How many columns a call adds; None where that cannot be told."""
    for name in ("inputs_embeds", "input_ids"):
        if isinstance(asked.get(name), Tensor):
            return asked[name].shape[1]
    return None


def without_cache(output: Any, cache: Any) -> Any:
    """An output as it is where no cache was wanted.

    Args:
        output: Of a model.
        cache: The memory's.
    """
    if isinstance(output, tuple):
        return tuple(part for part in output if part is not cache)
    return type(output)(**{name: part for name, part in output.items() if part is not cache})
