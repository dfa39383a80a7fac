"""Memory: the one object that stands between a model's attention layers and an eviction policy.

``attend`` takes the place of ``scaled_dot_product_attention``: it stores the new tokens, attends over all that is
kept, and, whenever a sequence has seen a multiple of the policy's interval, lets the policy judge its tokens and
frees the rest. A call that crosses such a multiple is cut there. Because causal layers only look back, cutting layer
by layer gives what feeding the whole model in chunks would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from namm.errors import AttachError
from namm.foresight import Foresight
from namm.grades import Grades
from namm.layer import KeptTokens, LayerMemory
from namm.policies.base import Policy
from namm.renumbering import check_renumbered
from namm.report import MemoryReport, Peaks
from namm.rotation import Rotation
from namm.rules import PLAIN, AttentionRule
from namm.stores import StoreName, check_store
from namm.told import Told


class SequenceState(Protocol):
    """State that sequences have beside the memory, such as that of a hybrid model's recurrent layers."""

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these rows of the batch, in this order."""

    def nbytes(self) -> int:
        """Bytes allocated now."""
        ...

    def fork(self, memory: Memory) -> SequenceState:
        """The same state, beside a memory that goes its own way."""
        ...


class Memory:
    """KV memory of one model for a batch of sequences, under one policy.

    Attributes:
        policy: Decides what is kept.
        store: How kept tokens lie in layers that begin from now on.
        layers: What each layer holds.
        told: What is known beside queries, keys and values.
        parts: Memories that the batch was split into; empty for a batch that was not.
        identities: Of the sequences of the batches that begin from now on, so that what a policy draws for one does not
            depend on its row; None numbers them from 0.
        sequence_state: What else must follow when rows leave or are copied; None for most models.
    """

    def __init__(self, policy: Policy, depth: int | None = None, store: str = "packed") -> None:
        """An empty memory.

        Args:
            policy: Decides what is kept. One policy object may serve several memories; it holds no token state.
            depth: Layers of the model; needed only where a layer's budget depends on how many there are.
            store: "packed" holds no slot that is not in use. "padded" is faster for batches of short caches that update
                at least every 64 tokens, takes up to a third more bytes, and differs by rounding.

        Raises:
            UnknownNameError: Another store.
        """
        self.policy = policy
        self.store: StoreName = check_store(store)
        self.depth = depth
        self.told = Told()
        self.layers: dict[int, LayerMemory] = {}
        self.parts: list[Memory] = []
        self.peaks = Peaks()
        self.watchers: list[Callable[[KeptTokens], None]] = []
        self.first_sequence = 0
        self.identities: Int[Tensor, " batch"] | None = None
        self.sequence_state: SequenceState | None = None
        self._is_part = False

    def reset(self) -> None:
        """Forgets everything; the next call starts new sequences."""
        self.layers.clear()
        self.parts = []
        self.told.begin()
        if self._is_part:
            self.peaks.leave(self.first_sequence)
        else:
            self.peaks = Peaks()

    def split(self, sizes: Sequence[int]) -> list[Memory]:
        """Forgets everything; memories for consecutive parts of a new batch, each called for its rows alone.

        What this memory reports is then about all parts, rows in order. Sequences have the identities that they would
        have in one batch.
        """
        self.reset()
        for first in (sum(sizes[:index]) for index in range(len(sizes))):
            part = Memory(self.policy, self.depth, self.store)
            part.first_sequence, part.peaks, part._is_part = first, self.peaks, True
            part.watchers = self.watchers
            part.told = Told(self.told.rotations)
            self.parts.append(part)
        return list(self.parts)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        padding: Bool[Tensor, "batch tokens"] | None = None,
        scale: float | None = None,
        rule: AttentionRule = PLAIN,
    ) -> Float[Tensor, "batch query_heads tokens value_dim"]:
        """Stores the new tokens and attends causally over all that is kept, these included.

        Args:
            layer: Index of the calling layer.
            query: New queries, positions already encoded; query heads of one KV head lie together.
            key: New keys, positions already encoded.
            value: New values; they may be wider or narrower than the keys.
            padding: True for real tokens. Others are never stored, and their output is zero.
            scale: Factor on the logits; ``head_dim ** -0.5`` by default.
            rule: What this layer does beyond plain causal attention; its reach is that of the layer's first call.

        Raises:
            AttachError: Shapes that do not fit each other or the sequences held.
        """
        _check_shapes(layer, query, key, value)
        self._check_whole()
        if layer not in self.layers:
            self.layers[layer] = LayerMemory(
                layer, self.policy, query, key, value, self.first_sequence, self.told, self.depth, rule, self.store
            )
            if self.identities is not None:
                self.layers[layer].contents.sequences = self.identities.cpu()
            self.layers[layer].watchers = self.watchers
        held = self.layers[layer]
        if layer == min(self.layers):
            self.told.rankings.forget()
        if held.cache.batch != query.shape[0]:
            raise AttachError(
                f"Layer {layer} holds {held.cache.batch} sequences and was called with {query.shape[0]}; "
                "call memory.reset() before a new batch, or memory.select_sequences() when rows leave."
            )
        if held.rule.local != rule.local:
            raise AttachError(f"Layer {layer} began with a reach of {held.rule.local} and now asks for {rule.local}.")
        out = held.attend(query, key, value, padding, query.shape[-1] ** -0.5 if scale is None else scale, rule)
        self.peaks.note(self.first_sequence, layer, held)
        return out

    def watch(self, watcher: Callable[[KeptTokens], None]) -> None:
        """Has a function called after every update of a layer, with the tokens that it kept; also after a reset."""
        self.watchers.append(watcher)

    def tell_tokens(
        self, ids: Int[Tensor, "batch tokens"], padding: Bool[Tensor, "batch tokens"] | None = None
    ) -> None:
        """Tells which tokens the next call is about; only policies whose ``reads_tokens`` is set need it.

        Args:
            ids: Token ids of the new tokens, padding included.
            padding: True for real tokens, as in :meth:`attend`.
        """
        self._check_whole()
        tokens = self.told.tokens
        if tokens.may_drop and self.layers:
            held = [layer.contents.kept_positions().flatten(1) for layer in self.layers.values()]
            tokens.drop_all_but(torch.cat(held, dim=1).unbind())
        tokens.add(ids, padding)
        self.peaks.note_beside(self.first_sequence, tokens.nbytes)

    def tell_rotations(self, rotations: Sequence[Rotation]) -> None:
        """Tells how each layer encodes positions; only policies whose ``reads_rotation`` is set need it.

        Args:
            rotations: One a layer; :data:`namm.rotation.UNTURNED` where queries and keys are not turned.

        Raises:
            AttachError: The policy turns keys, and no layer does.
        """
        if self.policy.renumbers:
            check_renumbered(rotations)
        self.told.rotations = tuple(rotations)

    def tell_foresight(self, foresight: Foresight | None) -> None:
        """Tells what a second reading has shown of the sequences; only policies whose ``foresees`` is set need it.

        Args:
            foresight: Of the present batch, or of the one that begins with the next call; None takes it back.
        """
        self._check_whole()
        self.told.foresee(foresight)

    def tell_grades(self, grades: Grades | None) -> None:
        """Tells what tokens are worth; only policies whose ``reads_grades`` is set need it.

        Args:
            grades: Of the present batch, or of the one that begins with the next call; None takes them back.
        """
        self._check_whole()
        self.told.grade(grades)

    def judge(self) -> None:
        """Has the policy judge now what has come since the last update, though no interval is complete."""
        self._check_whole()
        self.told.rankings.forget()
        for layer in self.layers.values():
            layer.judge()

    @property
    def seen(self) -> Int[Tensor, " batch"]:
        """Tokens seen by each sequence (empty before the first call)."""
        held = [layers[min(layers)].cache.seen for layers in self._held()]
        return torch.cat(held) if held else torch.zeros(0, dtype=torch.long)

    def slots(self) -> Int[Tensor, "batch layers kv_heads"]:
        """Slots held now.

        Raises:
            AttachError: Layers have different numbers of KV heads; :meth:`report` lists each layer by itself.
        """
        if len({layer.cache.kv_heads for layers in self._held() for layer in layers.values()}) > 1:
            raise AttachError("Layers of this model differ in their number of KV heads; read memory.report().slots.")
        held = [torch.stack([layers[i].cache.slots() for i in sorted(layers)], dim=1) for layers in self._held()]
        return torch.cat(held) if held else torch.zeros(0, 0, 0, dtype=torch.long)

    def kept_positions(self, layer: int) -> Int[Tensor, "batch kv_heads slots"]:
        """Absolute positions of the tokens a layer holds, ascending, padded with -1 at the end."""
        held = [layers[layer].contents.kept_positions() for layers in self._held()]
        longest = max(part.shape[2] for part in held)
        return torch.cat([pad(part, (0, longest - part.shape[2]), value=-1) for part in held])

    def cache_bytes(self) -> int:
        """Bytes of keys and values that are allocated now."""
        return sum(layer.cache.cache_bytes() for layers in self._held() for layer in layers.values())

    def state_bytes(self) -> int:
        """Bytes that the policy costs beside them: positions, per-token state, buffered queries, token ids."""
        return (
            sum(layer.contents.state_bytes() for layers in self._held() for layer in layers.values())
            + self._told_bytes()
        )

    def update_seconds(self) -> float:
        """Time that updates took so far: observing, judging and freeing (on a GPU only the time to launch them)."""
        return sum(layer.update_seconds for layers in self._held() for layer in layers.values())

    def select_sequences(self, rows: Int[Tensor, " rows"], identities: Int[Tensor, " rows"] | None = None) -> None:
        """Keeps these rows of the batch, in this order; the others' memory is freed.

        Args:
            rows: Present rows; one may appear more than once.
            identities: New identity of each, by which a population's candidate and the random policy's draws are
                looked up. By default rows keep theirs, which are 0, 1, 2, ... at first.

        Raises:
            AttachError: The batch is split: rows leave the part that holds them.
        """
        self._check_whole()
        self.told.select(rows)
        for layer in self.layers.values():
            layer.select(rows.cpu())
            if identities is not None:
                layer.contents.sequences = identities.cpu()
        if self.sequence_state is not None and self.layers:
            self.sequence_state.select(rows)

    def fork(self) -> Memory:
        """A memory that holds the same and goes its own way from here: a prefix is read once, then each question.

        Kept tokens are shared until either memory's next update, so that a fork takes little; each report counts them
        as its own. Nobody watches the fork. (Several questions at a time: repeat rows with :meth:`select_sequences`.)

        Raises:
            AttachError: The batch is split; fork its parts.
        """
        self._check_whole()
        other = Memory(self.policy, self.depth, self.store)
        other.first_sequence, other.identities = self.first_sequence, self.identities
        other.peaks, other.told = self.peaks.fork(self.first_sequence), self.told.fork()
        other.layers = {index: layer.fork(other.told) for index, layer in self.layers.items()}
        other.sequence_state = None if self.sequence_state is None else self.sequence_state.fork(other)
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> Memory:
        """The same as :meth:`fork`: the policy, which holds no token, is shared."""
        memo[id(self)] = forked = self.fork()
        return forked

    def __copy__(self) -> Memory:
        """The same as :meth:`fork`: two memories over one set of buffers would overwrite each other."""
        return self.fork()

    def report(self) -> MemoryReport:
        """What was held, at the peak and now, and what was evicted."""
        state = 0 if self.sequence_state is None else self.sequence_state.nbytes()
        return MemoryReport.of(self.policy.name, self._held(), self.peaks, state, self._told_bytes())

    def _held(self) -> list[dict[int, LayerMemory]]:
        """The layers of every part that has been called."""
        return [part.layers for part in self.parts or [self] if part.layers]

    def _told_bytes(self) -> int:
        """Bytes of token ids."""
        return sum(part.told.tokens.nbytes for part in self.parts or [self])

    def _check_whole(self) -> None:
        if self.parts:
            raise AttachError(f"The batch is split into {len(self.parts)} memories; call these, or reset() this one.")


def _check_shapes(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises AttachError for heads, widths or lengths that do not fit."""
    fits = (
        query.dim() == key.dim() == value.dim() == 4
        and key.shape[:3] == value.shape[:3]
        and query.shape[0] == key.shape[0]
        and query.shape[2:] == key.shape[2:]
        and query.shape[1] % key.shape[1] == 0
    )
    if not fits:
        found = ", ".join(str(list(tensor.shape)) for tensor in (query, key, value))
        raise AttachError(
            f"Layer {layer}: expected query [batch, groups * kv_heads, tokens, head_dim], key [batch, kv_heads, "
            f"tokens, head_dim] and value [batch, kv_heads, tokens, value_dim], found {found}."
        )
