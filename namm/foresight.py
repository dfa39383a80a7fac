"""What a second reading has shown of a text: how much attention each of its tokens gets later.

Some policies cannot judge from the past alone. KVzip has the model read its context again; the oracle looks at what
really follows. Both get it from a pass of its own under a full cache, made by a :class:`Recorder`, and a memory that is
told the result (``Memory.tell_foresight``) lets the policy look it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.errors import AttachError
from namm.policies.base import Policy, Queries, Selection, TokenView
from namm.rules import capped
from namm.tokens import TokenRecord

BLOCK_ELEMENTS = 1 << 22
"""Probabilities held at once while a pass is recorded (16 MiB)."""


@dataclass(frozen=True, eq=False)
class Foresight:
    """The largest attention that each token of a batch of sequences gets in the recorded pass."""

    maxima: Mapping[int, Float[Tensor, "rows kv_heads tokens points"]]
    """By layer; point p counts the queries from position ``p * interval`` on. Largest over heads of the group too."""

    tokens: Int[Tensor, " rows"]
    """Tokens of each sequence that the pass has shown; what comes later is not known."""

    interval: int | None
    """Tokens between two points; None where there is one, which counts all queries of the pass."""

    ids: tuple[tuple[int, ...], ...] | None = None
    """The tokens that surely come, so that they can be compared with those that are judged; None compares nothing."""

    def select(self, rows: Int[Tensor, " rows"]) -> Foresight:
        """Of these sequences, in this order."""
        wanted = rows.tolist()
        maxima = {layer: found[rows.to(found.device)] for layer, found in self.maxima.items()}
        ids = None if self.ids is None else tuple(self.ids[row] for row in wanted)
        return Foresight(maxima, self.tokens[rows.to(self.tokens.device)], self.interval, ids)

    def check(
        self, told: TokenRecord, rows: Int[Tensor, " rows"], positions: Int[Tensor, "rows kv_heads slots"]
    ) -> None:
        """Compares the tokens that are judged with those of the pass, where both are known.

        Raises:
            AttachError: They are others.
        """
        if self.ids is None or not told.rows:
            return
        found = told.at(rows, positions).cpu()
        for place, row in enumerate(rows.tolist()):
            known = torch.tensor(self.ids[row] if row < len(self.ids) else (), dtype=torch.long)
            compared = (positions[place] >= 0).cpu() & (positions[place] < known.shape[0]).cpu()
            if bool((known[positions[place].cpu()[compared]] != found[place][compared]).any()):
                raise AttachError(
                    f"Sequence {row} is another text than the one that was read ahead; record it again for this batch, "
                    "and tell the memory before its first token."
                )

    def at(
        self,
        layer: int,
        rows: Int[Tensor, " rows"],
        positions: Int[Tensor, "rows kv_heads slots"],
        seen: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows kv_heads slots"]:
        """Attention that tokens will get after an update; +inf for those the pass has not shown.

        Args:
            layer: Index of the layer.
            rows: Sequences that are judged.
            positions: Absolute positions of their tokens; -1 in unused slots.
            seen: Tokens of each so far.

        Raises:
            AttachError: The pass was made with other sequences or another model.
        """
        found = self.maxima.get(layer)
        if found is None or int(rows.max()) >= found.shape[0] or positions.shape[1] != found.shape[1]:
            shape = "no such layer" if found is None else f"{found.shape[0]} sequences of {found.shape[1]} heads"
            raise AttachError(
                f"Layer {layer} judges sequence {int(rows.max())} of {positions.shape[1]} heads; the foresight "
                f"that was told has {shape}. Record it with the same model for just this batch."
            )
        mine = found[rows.to(found.device)].to(positions.device)
        point = torch.zeros_like(seen) if self.interval is None else seen // self.interval
        within = point < mine.shape[3]
        place = point.clamp_max(mine.shape[3] - 1)[:, None, None, None].expand(-1, *mine.shape[1:3], 1)
        after = mine.gather(3, place).squeeze(3) * within[:, None, None]  # [rows, kv_heads, tokens]
        known = positions < self.tokens.to(positions.device)[rows.to(positions.device)][:, None, None]
        score = after.gather(2, positions.clamp(0, after.shape[2] - 1))
        return torch.where(known, score, torch.inf).masked_fill(positions < 0, 0.0)


class Recorder(Policy):
    """Keeps everything and notes the largest attention that each token gets.

    Attributes:
        listens: Whether the queries of the present update count.
        among: Positions from and to which attention is noted, and shared out among these, the ``sinks`` first tokens
            and each sequence's ``own``; None notes all, shared out among all, as the model does.
        sinks: See ``among``.
        own: The position of each sequence from which the queries' own tokens are; see ``among``.
        spacing: Tokens between two points in time.
    """

    name = "recorder"
    reads_queries = True

    def __init__(self, interval: int, rows: int, tokens: int, points: int = 1) -> None:
        """A recording.

        Args:
            interval: Tokens between two updates of the pass.
            rows: Sequences; their identities are 0, 1, ..
            tokens: Positions of the longest that are noted.
            points: Points in time, an interval apart, from which later queries are counted; 1 counts all together.
        """
        super().__init__(Selection(interval=interval))
        self.rows, self.tokens, self.points, self.spacing = rows, tokens, points, interval
        self.listens, self.sinks = True, 0
        self.among: tuple[int, int] | None = None
        self.own = torch.zeros(rows, dtype=torch.long)
        self._found: dict[int, Float[Tensor, "rows kv_heads tokens points"]] = {}

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Notes what the interval's queries looked at; no token is judged."""
        if self.listens:
            self._note(view)
        return view.positions.float() * 0.0

    def foresight(self, tokens: Int[Tensor, " rows"], ids: tuple[tuple[int, ...], ...] | None = None) -> Foresight:
        """What was noted.

        Args:
            tokens: Of each sequence that are known by it.
            ids: Which tokens these are.
        """
        # a point counts its own queries and all later ones
        maxima = {layer: found.flip(-1).cummax(-1).values.flip(-1) for layer, found in self._found.items()}
        interval = None if self.points == 1 else self.selection.interval
        return Foresight(maxima, tokens, interval, ids)

    def _note(self, view: TokenView) -> None:
        largest = self._largest(view, view.queries())
        batch, heads, _ = view.positions.shape
        if view.layer not in self._found:
            shape = (self.rows, heads, self.tokens + 1, self.points)  # the last token stands for those not noted
            self._found[view.layer] = torch.zeros(shape, device=largest.device)
        point = torch.zeros_like(view.seen)
        if self.points > 1:
            point = (view.seen - 1) // self.spacing
        first, last = (0, self.tokens) if self.among is None else self.among
        noted = view.valid & (view.positions >= first) & (view.positions < min(last, self.tokens))
        place = torch.where(noted, view.positions, self.tokens)
        found = self._found[view.layer]
        for row in range(batch):
            into = found[int(view.sequences[row]), :, :, int(point[row])]
            into.scatter_reduce_(1, place[row], largest[row].masked_fill(~noted[row], 0.0), "amax")

    def _largest(self, view: TokenView, asked: Queries) -> Float[Tensor, "batch kv_heads slots"]:
        """The largest probability over queries and heads of the group, a block of queries at a time."""
        key = view.keys()
        batch, heads, slots = view.positions.shape
        grouped = asked.states.unflatten(1, (heads, -1))  # [batch, kv_heads, group, queries, head_dim]
        group, count = grouped.shape[2:4]
        block = max(1, BLOCK_ELEMENTS // max(1, batch * heads * group * slots))
        largest = torch.zeros(batch, heads, slots, device=key.device)
        for start in range(0, count, block):
            some = slice(start, start + block)
            query = grouped[:, :, :, some].flatten(2, 3)
            logits = capped(torch.matmul(query, key.transpose(-1, -2)).float() * asked.scale, asked.rule.softcap)
            logits = logits.unflatten(2, (group, -1))  # [batch, kv_heads, group, queries, slots]
            visible = self._visible(view, asked, some)[:, :, None]
            if self.among is None:
                sums = asked.log_sums[:, :, some].unflatten(1, (heads, group))[..., None]
            else:
                sums = logits.masked_fill(~visible, -torch.inf).logsumexp(-1, keepdim=True)
            share = (logits - sums).exp().masked_fill(~visible, 0.0)
            largest = torch.maximum(largest, share.amax((2, 3)))
        return largest

    def _visible(self, view: TokenView, asked: Queries, some: slice) -> Bool[Tensor, "batch kv_heads queries slots"]:
        """Which tokens some of the queries share their attention out among."""
        token, asker = view.positions[:, :, None], asked.positions[:, None, some, None]
        visible = view.valid[:, :, None] & (token <= asker)
        if asked.rule.local is not None:
            visible &= asked.rule.local.visible(asker, token)
        if self.among is not None:
            first, last = self.among
            own = self.own[view.sequences.cpu()].to(token.device)[:, None, None, None]
            visible &= (token < self.sinks) | ((token >= first) & (token < last)) | (token >= own)
        return visible
