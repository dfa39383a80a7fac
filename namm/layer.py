"""One layer of a memory: the forward pass over what it holds, and when a policy judges that.

New tokens join the interval, attend to it causally and to the packed tokens in full, and where a sequence completes its
interval the policy judges. A call that crosses such a place is cut there.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.attention.eager import EagerAttention
from namm.attention.held import attend_held
from namm.attention.local import attend_local, within_reach
from namm.attention.parts import join_parts
from namm.cache import TAIL_BLOCK, LayerCache
from namm.contents import LayerContents
from namm.errors import AttachError
from namm.interval import Interval
from namm.one_pass import attend_and_observe, takes_whole
from namm.policies.base import Policy
from namm.renumbering import renumber_sinks
from namm.rules import PLAIN, AttentionRule, sink_part
from namm.stores import StoreName
from namm.told import Told
from namm.update import Case, judged


@dataclass(frozen=True)
class KeptTokens:
    """What a layer kept at one update."""

    layer: int
    """Index of the layer."""

    sequences: Int[Tensor, " rows"]
    """Identities of the sequences that were judged."""

    seen: Int[Tensor, " rows"]
    """Tokens each had seen: a multiple of the interval, or the length of its prompt."""

    positions: Int[Tensor, "rows kv_heads slots"]
    """Absolute positions of what is left, ascending, padded with -1."""


class LayerMemory:
    """Attends with what a layer holds, and has it judged when it is time."""

    def __init__(
        self,
        index: int,
        policy: Policy,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        first_sequence: int,
        told: Told,
        depth: int | None,
        rule: AttentionRule = PLAIN,
        store: StoreName = "packed",
    ) -> None:
        """An empty memory of the shape of these tensors, its sequences numbered from the first; see :class:`Memory`."""
        batch, kv_heads, _, head_dim = key.shape
        policy.selection.check_fits(index, kv_heads, depth)
        self.index, self.policy = index, policy
        self.told, self.depth = told, depth
        self.only_prompt = policy.selection.schedule == "prompt"
        self.every = None if self.only_prompt else policy.selection.interval
        self.rule = rule
        self.only_releases = False
        if self.every is None and not self.only_prompt:
            self._only_release()
        self.group = query.shape[1] // kv_heads
        self.updates = 0
        self.evicted = 0
        self.update_seconds = 0.0
        self.most_slots = 0
        self.call_peak = (0, 0)
        self.watchers: list[Callable[[KeptTokens], None]] = []
        chunk = policy.eager_chunk
        if chunk is not None and not (rule.is_plain and value.shape[3] == head_dim):
            raise AttachError(
                f"Layer {index}: the released attention is plain and its values are as wide as its keys; found "
                f"{rule} and widths {head_dim}, {value.shape[3]}. Use policy 'namm' on this model."
            )
        may_pad = store == "padded" and rule.local is None and chunk is None
        self.contents = LayerContents(
            LayerCache(
                batch, kv_heads, head_dim, policy.state_shapes(), key.dtype, key.device, self.every, value.shape[3],
                may_pad=may_pad,
            ),
            Interval(query),
            None if chunk is None else EagerAttention(batch, chunk, policy.observes_attention),
            {
                name: torch.zeros(batch, kv_heads, *shape, device=key.device)
                for name, shape in policy.head_state_shapes().items()
            },
            torch.arange(first_sequence, first_sequence + batch),
        )  # fmt: skip

    @property
    def cache(self) -> LayerCache:
        """Its keys and values."""
        return self.contents.cache

    def attend(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        padding: Bool[Tensor, "batch tokens"] | None,
        scale: float,
        rule: AttentionRule = PLAIN,
    ) -> Float[Tensor, "batch query_heads tokens value_dim"]:
        """See :meth:`Memory.attend`."""
        self.contents.interval.scale, self.rule = scale, rule
        self.call_peak = (0, 0)
        out = self._attend_columns(query, key, value, padding)
        if self.only_prompt:
            self._judge_prompt()
        return out

    def _attend_columns(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        padding: Bool[Tensor, "batch tokens"] | None,
    ) -> Float[Tensor, "batch query_heads tokens value_dim"]:
        """The call's tokens, wherever a row is padded."""
        if padding is None or bool(padding.all()):
            return self._attend_aligned(query, key, value, None)
        # real tokens first: then all sequences begin in the same column and share the cuts
        order = (~padding).to(torch.int8).argsort(dim=1, stable=True)
        columns = order[:, None, :, None]
        query, key, value = (t.gather(2, columns.expand(-1, t.shape[1], -1, t.shape[3])) for t in (query, key, value))
        out = self._attend_aligned(query, key, value, padding.sum(1).cpu())
        real = padding.gather(1, order)[:, None, :, None]
        return torch.zeros_like(out).scatter_(2, columns.expand_as(out), out.masked_fill(~real, 0.0))

    def _attend_aligned(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        counts: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch query_heads tokens value_dim"]:
        """Cuts the call wherever a sequence completes an interval; row b holds ``counts[b]`` tokens, then nothing."""
        pieces = []
        start, tokens = 0, query.shape[2]
        while start < tokens:
            left = None if counts is None else (counts - start).clamp_min(0)
            step = tokens - start
            if self.every is not None:
                step = min(step, self.every - self._fullest(left))
            piece = slice(start, start + step)
            now = None if left is None else left.clamp_max(step)
            pieces.append(self._attend_piece(query[:, :, piece], key[:, :, piece], value[:, :, piece], now))
            self._note_peaks()
            if self.every is not None and self.cache.aligned in (None, self.every):
                complete = self.cache.tail_lengths == self.every
                if bool(complete.any()):
                    self._judge(complete, self.every, goes_on=start + step < tokens)
                    self.updates += 1
            start += step
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def judge(self) -> None:
        """One update of everything not judged yet, for each number of such tokens that a sequence of the batch has."""
        lengths = self.cache.tail_lengths
        for length in lengths[lengths > 0].unique().tolist():
            self._judge(lengths == length, length, goes_on=False)
        self.updates += 1

    def _judge_prompt(self) -> None:
        """One update of everything seen, and no other."""
        self.judge()
        self.only_prompt = False
        self._only_release()

    def _judge(self, complete: Bool[Tensor, " batch"], interval: int, goes_on: bool) -> None:
        """One update of these sequences, after which no room is held that neither a token nor the call's next needs."""
        began = time.perf_counter()
        case = Case(self.index, self.depth, self.rule, self.told, self.contents)
        left = judged(None if self.only_releases else self.policy, case, complete, interval)
        self.evicted += left.evicted
        self.cache.replace(left.index, left.stay, left.positions, left.state, complete)
        if self.policy.renumbers:
            rotation, sinks = self.told.rotation(self.index), self.policy.selection.protected_first
            renumber_sinks(self.cache, self.contents.head_state, rotation, sinks, complete, interval)
        self._free_judged(goes_on)
        self.update_seconds += time.perf_counter() - began
        self._tell(complete)

    def _only_release(self) -> None:
        """From now on the policy judges nothing; a layer of bounded reach still lets go what is out of it."""
        if self.rule.local is not None:
            self.only_releases, self.every = True, self.rule.local.interval

    def _fullest(self, left: Int[Tensor, " batch"] | None) -> int:
        """Most tokens of the interval that a sequence holds which is still given some."""
        if left is None and self.cache.aligned is not None:
            return self.cache.aligned
        active = self.cache.tail_lengths if left is None else self.cache.tail_lengths[left > 0]
        # after the last real token of every row only padding is left, and nothing can complete an interval
        return int(active.max()) if active.numel() else 0

    def _attend_piece(
        self,
        query: Float[Tensor, "batch query_heads tokens head_dim"],
        key: Float[Tensor, "batch kv_heads tokens head_dim"],
        value: Float[Tensor, "batch kv_heads tokens value_dim"],
        counts: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, "batch query_heads tokens value_dim"]:
        """Tokens that stay within the interval: stored, then attended with the kept part and the tail."""
        cache = self.cache
        starts, aligned = cache.tail_lengths, cache.aligned
        cache.append(key, value, counts)
        if self.contents.eager is not None:
            return self.contents.eager.attend(cache, query, starts, self.contents.interval.scale)
        rule, scale, tokens = self.rule, self.contents.interval.scale, query.shape[2]
        if aligned == 0 and counts is None and tokens == self.every and takes_whole(self.policy, cache, query, rule):
            out, self.contents.observed = attend_and_observe(self.policy, cache, query, scale)
            return out
        folded = query.reshape(cache.batch, cache.kv_heads, self.group * tokens, cache.head_dim)
        if within_reach(rule, cache):
            out, log_sum = attend_held(cache, query, folded, starts, aligned, scale, rule.softcap)
        else:
            out, log_sum = attend_local(cache, folded, starts, self.group, scale, rule)
        if rule.sinks is not None:
            out, log_sum = join_parts(out, log_sum, *sink_part(rule.sinks, out, self.group))
        out = out.reshape(*query.shape[:3], cache.value_dim)
        judges = self.only_prompt or (self.every is not None and not self.only_releases)
        if (self.policy.observes_attention or self.policy.reads_queries) and judges:
            room = cache.tail_keys.shape[2]
            self.contents.interval.add(query, log_sum.reshape(query.shape[:3]), starts, counts, aligned, room)
        return out

    def _tell(self, updated: Bool[Tensor, " batch"]) -> None:
        """Shows what an update kept to whoever watches."""
        for watcher in self.watchers:
            positions = self.contents.kept_positions()[updated]
            watcher(KeptTokens(self.index, self.contents.sequences[updated], self.cache.seen[updated], positions))

    def _free_judged(self, goes_on: bool) -> None:
        """Gives back the room of judged tokens and of their queries; it grows again with the next interval.

        Small room that the call's next tokens would take again at once is kept.
        """
        if goes_on and self.cache.tail_keys.shape[2] <= TAIL_BLOCK:
            return
        self.contents.trim()

    def _note_peaks(self) -> None:
        """The most this layer has held: ever, in slots; during the present call, in bytes."""
        cache_bytes, state_bytes = self.call_peak
        self.call_peak = (max(cache_bytes, self.cache.cache_bytes()), max(state_bytes, self.contents.state_bytes()))
        self.most_slots = max(self.most_slots, self.cache.most_slots())

    def fork(self, told: Told) -> LayerMemory:
        """The same, going its own way and told by others; nobody watches it."""
        other = copy.copy(self)
        other.told, other.watchers, other.contents = told, [], self.contents.fork()
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these sequences."""
        self.contents.select(rows)
