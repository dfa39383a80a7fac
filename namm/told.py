"""What a memory is told from outside: token ids, how positions are encoded, what a second reading has shown.

None of it can be seen in queries, keys and values, and only policies that say so need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from namm.errors import AttachError
from namm.grades import Grades
from namm.rotation import Rotation
from namm.tokens import TokenRecord

if TYPE_CHECKING:
    from namm.foresight import Foresight


class Rankings:
    """What layers say of tokens to the layers above, within one call of the model.

    A call is cut at updates layer by layer: all of a layer's updates come before any of the next one's.
    """

    def __init__(self) -> None:
        """Nobody has said anything."""
        self._noted: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Float[Tensor, "batch positions"]]] = {}

    def of(self, rows: Int[Tensor, " rows"], seen: Int[Tensor, " rows"]) -> list[Float[Tensor, "batch positions"]]:
        """What was noted when these rows had seen so many tokens, the lowest layer's first."""
        return self._noted.get((tuple(rows.tolist()), tuple(seen.tolist())), [])

    def add(
        self, rows: Int[Tensor, " rows"], seen: Int[Tensor, " rows"], ranking: Float[Tensor, "batch positions"]
    ) -> None:
        """Notes a value for each position."""
        self._noted.setdefault((tuple(rows.tolist()), tuple(seen.tolist())), []).append(ranking)

    def forget(self) -> None:
        """The next call begins."""
        self._noted.clear()


class Told:
    """What is known of a batch of sequences beside their tensors.

    Attributes:
        tokens: Their ids.
        rankings: What layers tell those above.
        rotations: Of each layer; None where nobody told. The same for every batch.
    """

    def __init__(self, rotations: Sequence[Rotation] | None = None) -> None:
        """Nothing is known yet but, perhaps, how positions are encoded."""
        self.tokens = TokenRecord()
        self.rotations = rotations
        self._foresight: Foresight | None = None
        self._rows: Foresight | None = None  # of the present batch, whose rows may have moved
        self.rankings = Rankings()
        self._grades: Grades | None = None
        self._graded_rows: Grades | None = None  # likewise

    def begin(self) -> None:
        """New sequences: their ids are not known yet. Foresight and grades are told ahead, so that they stay."""
        self.tokens = TokenRecord()
        self._rows, self._graded_rows = self._foresight, self._grades

    def foresee(self, foresight: Foresight | None) -> None:
        """From now on this is known of what follows."""
        self._foresight = self._rows = foresight

    def grade(self, grades: Grades | None) -> None:
        """From now on tokens have these grades."""
        self._grades = self._graded_rows = grades

    def grades(
        self, name: str, rows: Int[Tensor, " rows"], positions: Int[Tensor, "rows kv_heads slots"]
    ) -> Float[Tensor, "rows kv_heads slots"]:
        """Grades of tokens; see :meth:`namm.grades.Grades.at`.

        Raises:
            AttachError: Nobody graded them, or not by this.
        """
        if self._graded_rows is None:
            raise AttachError(
                f"The policy keeps what is best by {name!r}, which only whoever reads can judge; the memory was told "
                "nothing. Call memory.tell_grades(namm.grades.Grades(..)) before the first token."
            )
        return self._graded_rows.at(name, rows, positions)

    def rotation(self, layer: int) -> Rotation:
        """How a layer encodes positions.

        Raises:
            AttachError: Nobody told.
        """
        if self.rotations is None or layer >= len(self.rotations):
            raise AttachError(
                f"The policy judges queries and keys without their positions, or turns keys to others; nobody told how "
                f"layer {layer} encodes them. attach() finds it out; else call memory.tell_rotations with a Rotation "
                "for each layer, or with namm.rotation.UNTURNED for layers that do not turn their queries and keys."
            )
        return self.rotations[layer]

    def foreseen(
        self,
        layer: int,
        rows: Int[Tensor, " rows"],
        positions: Int[Tensor, "rows kv_heads slots"],
        seen: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows kv_heads slots"]:
        """The largest attention that tokens get later; see :meth:`namm.foresight.Foresight.at`.

        Raises:
            AttachError: Nobody told, or it was told of another text.
        """
        if self._rows is None:
            raise AttachError(
                "The policy judges by a second reading of the text, and the memory was not told of one. Read prompts "
                "with modalities.reading.read, or call memory.tell_foresight(modalities.foresight.foresee(..)) before "
                "the text; where what follows depends on what is answered (control), such a policy cannot be used."
            )
        self._rows.check(self.tokens, rows, positions)
        return self._rows.at(layer, rows, positions, seen)

    def fork(self) -> Told:
        """The same, going its own way from here."""
        other = Told(self.rotations)
        other.tokens, other._foresight, other._rows = self.tokens.fork(), self._foresight, self._rows
        other._grades, other._graded_rows = self._grades, self._graded_rows
        return other

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keeps these rows, in this order."""
        self.tokens.select(rows)
        if self._rows is not None:
            self._rows = self._rows.select(rows)
        if self._graded_rows is not None:
            self._graded_rows = self._graded_rows.select(rows)
