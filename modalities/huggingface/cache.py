"""What transformers sees of a Memory: a Cache that answers positions in columns seen, and passes new tokens on.

Layers with attention hand their keys and values to the memory. Recurrent layers of hybrid models (Mamba, linear
attention, convolutions) keep a state of fixed size, which is transformers' own and stays as it is.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, cache_utils
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from namm.errors import AttachError
from namm.memory import Memory

_STATE_AND_ATTENTION = (LinearAttentionAndFullAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer)

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the cache, in arguments and outputs: since 5.24, and before (models on the Hub still do)."""

PLAIN_LAYERS = tuple(
    getattr(cache_utils, name)
    for name in (
        "DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer", "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer", "LinearAttentionAndSlidingWindowAttentionLayer", "DummyLayer",
    )
    if hasattr(cache_utils, name)
)  # fmt: skip
"""Layers of an empty cache of the caller's that a memory stands in for: they hold what they are given as it is."""


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


class MemoryCacheLayer(CacheLayerMixin):
    """Counts columns (padding included, as position arithmetic wants it); the memory holds the tensors."""

    is_croppable = False

    def __init__(self, is_sliding: bool = False) -> None:
        super().__init__()
        self.is_sliding = is_sliding
        self.columns = 0

    @property
    def keys(self) -> Tensor:
        """Refused: no tensor holds the keys of all heads.

        Raises:
            AttachError: Always.
        """
        raise AttachError(
            "The model reads cached keys or values past its attention, where those that were forgotten are missing."
        )

    @keys.setter
    def keys(self, value: Tensor | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  (a tensor there)
        """Set to None by the base class."""

    values = keys  # pyright: ignore[reportAssignmentType]  (the same)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Nothing to prepare."""
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: only the attached model's own calls go by the memory.

        Raises:
            AttachError: Always. A cache that a memory stood in for is used past the attached model, or after it.
        """
        raise AttachError(
            f"Expected the cache of a memory to be used by calls of the attached model, found it used outside of them: "
            f"the {self.columns} tokens that it counts are in the memory, which is detached. Read the prompt again "
            "without a cache, or stay inside the `with attach(...)` block."
        )

    def take(self, tokens: int) -> None:
        """Counts new tokens; the attention function stores them."""
        self.is_initialized = True
        self.columns += tokens

    def reset(self) -> None:
        """Refused: a cache that a caller brought cannot begin anew by itself."""
        raise AttachError(
            "A cache that a memory stands in for cannot be reset; for new sequences call the model without a cache, or "
            "with a new one."
        )

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


class StateAndMemoryLayer(LinearAttentionLayer, MemoryCacheLayer):
    """A layer that has both: a recurrent state, which is transformers' own, and attention, which is the memory's."""

    # variables in one base of transformers, properties in the other
    is_compileable = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    is_croppable = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, stock: LinearAttentionLayer, is_sliding: bool) -> None:
        MemoryCacheLayer.__init__(self, is_sliding)
        states = getattr(stock, "number_of_states", None)
        LinearAttentionLayer.__init__(self, **({} if states is None else {"number_of_states": states}))

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Of the recurrent state; attention has nothing to prepare."""
        LinearAttentionLayer.lazy_initialization(self, *args, **kwargs)

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class Family:
    """All caches of one attachment: the same object in a cache, its successors and its forks."""

    closed = False
    """Whether the model was detached."""


class MemoryCache(Cache):
    """One memory behind the layers of one model.

    Attributes:
        memory: Holds the tokens of all layers with attention.
        family: Of the attachment, whose model accepts just these caches.
        pending: Layers whose new tokens have been handed over and not yet attended, with their number.
        handed: Their keys and values, until they are attended.
        behind: How far each sequence's text is behind its tokens, where pictures are counted in several dimensions.
        caller_counted: Whether the last call's positions were the caller's own.
    """

    behind: Tensor | None = None
    caller_counted = False

    def __init__(self, memory: Memory, config: PreTrainedConfig) -> None:
        """A cache for a model of this configuration.

        Raises:
            AttachError: A layer keeps its past in a way that a Memory does not know.
        """
        super().__init__(layers=_layers(config))
        self.config, self.memory, self.family = config, memory, Family()
        self.pending: dict[int, int] = {}
        self.handed: dict[int, tuple[Tensor, Tensor]] = {}
        memory.sequence_state = self
        if not any(isinstance(layer, MemoryCacheLayer) for layer in self.layers):
            raise AttachError(
                f"No layer of {type(config).__name__} keeps keys and values (all are recurrent): nothing to forget."
            )

    @property
    def closed(self) -> bool:
        """Whether its sequences have ended: others have begun in its memory, or the model was detached."""
        return self.family.closed or not self.is_current

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state of fixed size."""
        return any(isinstance(layer, LinearAttentionLayer) for layer in self.layers)

    @property
    def holds_state(self) -> bool:
        """Whether any recurrent layer has left its state here."""
        return self.nbytes() > 0

    def begin(self) -> None:
        """Forgets everything: new sequences follow."""
        self.memory.reset()
        self.layers = _layers(self.config)
        self.pending, self.handed, self.behind, self.caller_counted = {}, {}, None, False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Notes whose tokens they are and passes them on."""
        layer = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if self.closed and isinstance(layer, MemoryCacheLayer):
            return layer.update(key_states, value_states)  # says what is wrong
        if not isinstance(layer, MemoryCacheLayer) or layer_idx in self.pending:
            what = "has stored new tokens twice" if layer is not None else "was not expected to store any"
            raise AttachError(f"Layer {layer_idx} {what} without attending through transformers' attention interface.")
        self.pending[layer_idx] = key_states.shape[-2]
        self.handed[layer_idx] = key_states, value_states
        layer.take(key_states.shape[-2])
        return key_states, value_states

    def stands_for(self, given: Any) -> bool:
        """Whether a cache that was brought is this one, or one that it stands in for."""
        return given is self or getattr(given, "layers", None) is self.layers

    def stand_in_for(self, given: Any) -> None:
        """From now on an empty cache that a caller brought counts what the memory has seen.

        Raises:
            AttachError: It is none whose place a memory can take.
        """
        kinds = {type(layer) for layer in getattr(given, "layers", ())}
        if (made := getattr(given, "layer_class_to_replicate", None)) is not None:
            kinds.add(made)
        odd = sorted(kind.__name__ for kind in kinds if kind not in (*PLAIN_LAYERS, MemoryCacheLayer))
        if not isinstance(given, Cache) or not hasattr(given, "layers") or odd:
            raise AttachError(
                f"Expected no cache, or an empty DynamicCache or StaticCache, found a {type(given).__name__}"
                f"{' of ' + ', '.join(odd) if odd else ''}, which would store what it is given in a way of its own "
                "(quantized, say); a memory cannot take its place."
            )
        given.layers = self.layers

    @property
    def has_begun(self) -> bool:
        """Whether any layer with attention has seen a token."""
        return any(layer.columns > 0 for layer in self.layers if isinstance(layer, MemoryCacheLayer))

    @property
    def is_current(self) -> bool:
        """Whether the memory still holds this cache's sequences, and not others that began since."""
        return self.memory.sequence_state is self

    def successor(self) -> MemoryCache:
        """An empty cache in place of this one, whose sequences are forgotten."""
        other = copy.copy(self)
        self.memory.sequence_state = other
        other.begin()
        return other

    def fork(self, memory: Memory) -> MemoryCache:
        """The same columns and recurrent states, before a memory that was forked."""
        other = copy.copy(self)
        other.memory, other.pending, other.handed = memory, {}, {}
        other.layers = [_forked(layer) for layer in self.layers]
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryCache:
        """A cache that goes its own way: see :meth:`namm.Memory.fork`.

        Raises:
            AttachError: Its sequences are forgotten already.
        """
        self.check_current()
        forked = self.memory.fork().sequence_state
        assert isinstance(forked, MemoryCache)
        memo[id(self)] = forked
        return forked

    def check_current(self) -> None:
        """Raises AttachError where the memory has forgotten this cache's sequences."""
        if not self.is_current:
            raise AttachError(
                "The sequences of this cache have ended and are forgotten: a later call without a cache began new ones "
                "in the same memory. Continue with the cache of the last output, or take copy.deepcopy(cache) before "
                "others begin. What goes on side by side belongs in one batch (classifier-free guidance and "
                "contrastive decoding alternate between two, and cannot run)."
            )

    def reset(self) -> None:
        """The same as :meth:`begin`."""
        self.begin()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: rows are copied and dropped."""
        self.memory.select_sequences(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        self.memory.select_sequences(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        self.memory.select_sequences(torch.arange(self.memory.seen.shape[0]).repeat_interleave(repeats))

    def select(self, rows: Tensor) -> None:
        """The memory keeps these rows: recurrent states follow, and what is counted beside tokens."""
        if self.behind is not None:
            self.behind = self.behind[rows.to(self.behind.device)]
        for layer in self.layers:
            if isinstance(layer, LinearAttentionLayer):
                # cast: transformers' name for a tensor of indices
                LinearAttentionLayer.reorder_cache(layer, cast("torch.LongTensor", rows))

    def nbytes(self) -> int:
        """Bytes of recurrent states."""
        recurrent = [layer for layer in self.layers if isinstance(layer, LinearAttentionLayer)]
        states = [state for layer in recurrent for kind in (layer.conv_states, layer.recurrent_states)
                  for state in (kind.values() if isinstance(kind, dict) else [kind])]  # fmt: skip
        return sum(state.nbytes for state in states if state is not None)

    def crop(self, *_: Any, **__: Any) -> None:
        """Refused: what an update has judged cannot be taken back."""
        raise AttachError("A Memory cannot be cropped; use decoding without assistant models or rollbacks.")


def _forked(layer: Any) -> Any:
    """A layer with states of its own."""

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(one) for key, one in value.items()}
        return value.clone() if isinstance(value, Tensor) else value

    other = copy.copy(layer)
    vars(other).update({name: own(value) for name, value in vars(layer).items()})
    return other


def _layers(config: PreTrainedConfig) -> list[Any]:
    """Transformers' own layers for a configuration, those that hold keys and values replaced by the memory's."""
    kept_as_they_are = (LinearAttentionLayer, getattr(cache_utils, "DummyLayer", LinearAttentionLayer))
    layers: list[Any] = []
    for index, stock in enumerate(DynamicCache(config=config).layers):
        kind = type(stock)
        # a class of its own below one of these stores more: `kind` must be the very class, `isinstance` tells the type
        if isinstance(stock, DynamicLayer) and kind in (DynamicLayer, DynamicSlidingWindowLayer):
            layers.append(MemoryCacheLayer(stock.is_sliding))
        elif isinstance(stock, _STATE_AND_ATTENTION) and kind in _STATE_AND_ATTENTION:
            layers.append(StateAndMemoryLayer(stock, stock.is_sliding))
        elif kind in kept_as_they_are:
            layers.append(stock)
        else:
            raise AttachError(
                f"Layer {index} keeps its past in a {kind.__name__}, which stores more than keys and values (an index, "
                "compressed blocks); a Memory knows plain keys and values and recurrent states."
            )
    return layers
