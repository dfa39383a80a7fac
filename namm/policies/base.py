"""What an eviction policy is: what it watches and how it scores.

A policy never touches the cache. At an update it gets a view of each head's tokens and returns one score a token;
padding, protected tokens, budgets, thresholds and order are the business of its :class:`Selection`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from namm.attention.factors import Factors
from namm.errors import AttachError
from namm.policies.selection import Selection
from namm.rotation import Rotation
from namm.rules import PLAIN, AttentionRule

__all__ = ["Places", "Policy", "Queries", "Selection", "State", "TokenView"]

State = dict[str, Tensor]
"""Per-token state by name, ``[batch, kv_heads, slots, *shape]`` in fp32; new tokens start at zero."""


@dataclass(frozen=True)
class Places:
    """Where tokens lie and the queries that looked at them, for policies that need more than the attention itself."""

    positions: Int[Tensor, "batch kv_heads slots"]
    """Absolute positions of the tokens; anything in unused slots."""

    queries: Int[Tensor, "batch queries"]
    """Absolute positions of the queries, oldest first."""

    before: Int[Tensor, "batch kv_heads"]
    """Tokens each head had kept before the interval began."""

    begun: Int[Tensor, " batch"]
    """Position at which the interval began."""

    @property
    def distance(self) -> Int[Tensor, "batch kv_heads slots queries"]:
        """How far before each query a token lies; a query sees no token at a negative distance."""
        return self.queries[:, None, None, :] - self.positions[..., None]

    @property
    def visible(self) -> Int[Tensor, "batch kv_heads 1 queries"]:
        """Tokens each query saw, itself included."""
        own = self.queries - self.begun[:, None] + 1
        return (self.before[..., None] + own[:, None, :])[:, :, None, :]


@dataclass(frozen=True)
class Queries:
    """The queries of the interval themselves, for policies that judge by more than what they looked at."""

    states: Float[Tensor, "batch query_heads queries head_dim"]
    """As the model computed them, positions encoded; heads of one KV head lie together."""

    log_sums: Float[Tensor, "batch query_heads queries"]
    """Log-sum-exp of each query's logits over everything it saw."""

    positions: Int[Tensor, "batch queries"]
    """Absolute positions, oldest first."""

    scale: float
    """Factor on the logits."""

    rule: AttentionRule = PLAIN
    """What the layer does beyond plain attention."""


def _not_supplied(*_: object) -> Any:
    raise AttachError("The policy asks for what it did not say it reads; set Policy.reads_queries or its like.")


@dataclass(frozen=True)
class TokenView:
    """What a policy sees of one layer at an update: slots oldest first, unused ones before the oldest token."""

    layer: int
    """Index of the layer."""

    positions: Int[Tensor, "batch kv_heads slots"]
    """Absolute position of each token; -1 in unused slots."""

    valid: Bool[Tensor, "batch kv_heads slots"]
    """Which slots hold a token."""

    seen: Int[Tensor, " batch"]
    """Tokens of each sequence so far."""

    sequences: Int[Tensor, " batch"]
    """Identity of each batch row; survives rows that leave the batch."""

    state: State
    """The policy's own per-token state, already carried over this interval; an entry that :meth:`Policy.score` replaces
    stays with its tokens."""

    head_state: State
    """The policy's own per-head state, zero at first; what :meth:`Policy.score` writes into it stays."""

    keys: Callable[[], Float[Tensor, "batch kv_heads slots head_dim"]]
    """Gathers the cached keys, for policies that judge by them."""

    values: Callable[[], Float[Tensor, "batch kv_heads slots value_dim"]]
    """Gathers the cached values, likewise."""

    token_ids: Callable[[], Int[Tensor, "batch kv_heads slots"]]
    """Looks up which token of the vocabulary each is, if the policy said that it reads them; -1 in unused slots."""

    queries: Callable[[], Queries] = _not_supplied
    """The interval's queries, if the policy said that it reads them."""

    rotation: Callable[[], Rotation] = _not_supplied
    """How positions are encoded in this layer's queries and keys, if whoever attached the model told it."""

    foreseen: Callable[[], Float[Tensor, "batch kv_heads slots"]] = _not_supplied
    """The largest attention each token gets later, as a second reading has shown (:mod:`namm.foresight`)."""

    grades: Callable[[str], Float[Tensor, "batch kv_heads slots"]] = _not_supplied
    """What each token is worth by some judgement from outside (:mod:`namm.grades`)."""

    ranked_below: Callable[[], list[Float[Tensor, "batch positions"]]] = _not_supplied
    """What layers below have noted at this same update (:attr:`rank`), lowest first: a value for each position."""

    rank: Callable[[Float[Tensor, "batch positions"]], None] = _not_supplied
    """Notes a value for each position, for the layers above."""

    @property
    def age(self) -> Int[Tensor, "batch kv_heads slots"]:
        """Tokens since each token; the newest has age 0, and so have unused slots."""
        age = self.seen[:, None, None] - 1 - self.positions
        return age.masked_fill(~self.valid, 0)


class Policy(ABC):
    """One eviction policy. Subclasses are final; each lives in a file of its own."""

    name: ClassVar[str]
    """Registry name."""

    observes_attention: bool = False
    """Whether :meth:`observe` must be called; then queries are buffered and columns recomputed at updates."""

    eager_chunk: int | None = None
    """Queries attended together by :mod:`namm.attention.eager`; None for fused attention."""

    observed_queries: int | None = None
    """How many of an interval's last queries :meth:`observe` is shown; None for all."""

    observes_in_pieces: int | None = None
    """A number of queries: :meth:`observe` may be shown an interval in pieces of multiples of it, oldest first, each
    with the state that the one before left, and without tokens newer than all of the piece. None: only at once."""

    reads_tokens: bool = False
    """Whether :attr:`TokenView.token_ids` is used; then the memory must be told the ids of its tokens."""

    reads_queries: bool = False
    """Whether :attr:`TokenView.queries` is used; then they are buffered until the update."""

    reads_rotation: bool = False
    """Whether :attr:`TokenView.rotation` is used; then whoever attaches a model finds it out and tells the memory."""

    renumbers: bool = False
    """Whether the first ``protected_first`` tokens are moved up behind what was evicted (:mod:`namm.renumbering`); for
    policies that keep these and the newest without a gap. Then ``reads_rotation`` is to be set."""

    foresees: ClassVar[Literal["repetition", "future"] | None] = None
    """What :attr:`TokenView.foreseen` is the attention of, if it is used: the context's "repetition", or its real
    "future". Then whoever reads a text reads it twice, and tells the memory before the second time."""

    reads_grades: ClassVar[bool] = False
    """Whether :attr:`TokenView.grades` is used; then whoever reads tells the memory what tokens are worth."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Fields of :class:`Selection` whose defaults are others for this policy."""

    def __init_subclass__(cls, **told: Any) -> None:
        """A class that observes otherwise than the one it is made from promises nothing that it does not say itself."""
        super().__init_subclass__(**told)
        if "observe" in vars(cls) and "observes_in_pieces" not in vars(cls):
            cls.observes_in_pieces = None

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    @classmethod
    def make_selection(cls, given: Mapping[str, Any]) -> Selection:
        """The selection rule with what a user gave and this policy's defaults for the rest."""
        return Selection(**{**cls.defaults, **given})

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and trailing shapes of the per-token state that travels with the cache."""
        return {}

    def head_state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and trailing shapes of what is remembered of each head, ``[batch, kv_heads, *shape]`` in fp32."""
        return {}

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """New state of some tokens, given the attention they received in the interval.

        Called block by block, so a token's new state may depend on nothing but its own column and state.

        Args:
            columns: Probability that each query gave each token, mean over the query group; 0 for newer tokens.
            state: These tokens' state.
            places: Where the tokens and the queries lie.
        """
        return state

    def folds(self, query: Float[Tensor, "batch query_heads queries head_dim"], group: int, capped: bool) -> bool:
        """Whether :meth:`fold` is to be called in place of :meth:`observe` for queries like these.

        Args:
            query: For their device, type and width.
            group: Query heads a KV head.
            capped: Whether logits are bounded.
        """
        return False

    def fold(self, factors: Factors, state: State) -> State:
        """What :meth:`observe` gives for the factors' columns, without columns; only where :meth:`folds` says so."""
        raise AttachError(
            f"{type(self).__name__} says that it folds factors and does not say how: define fold beside folds, or "
            "leave both to be shown columns."
        )

    @abstractmethod
    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """One score a token, larger = keep."""

    def describe(self) -> dict[str, object]:
        """What decides this policy's behaviour, as JSON-able facts for a result row."""
        return {"policy": self.name, **asdict(self.selection)}
