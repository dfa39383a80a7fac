"""Watches whether a memory still holds what an episode showed once and asks for later: the tokens of its cues.

An environment says in the `info` of its reset when something is shown that has to be remembered:

    cue_steps     the steps that show it (or `cue_step`, one step)
    cue_repeats   how many of them in a row show the same thing, 1 by default: it is held as long as one of them is
    asked_steps   for each cue step the step at which it is needed; by default the last step of the episode

Tokens do not come back, so a cue is followed by one number a (layer, head): the steps after which it was gone. Where
tokens are is looked up after evictions only, which makes the number exact to the step and the watching cheap. A lost
token is not yet lost information: deeper layers may have copied it into the keys and values of later tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from evaluations.control.sizes import TOKENS_PER_STEP
from namm.errors import DataError

MOST_CUES = 16
"""Cues followed in one episode, evenly chosen where there are more: rows stay small."""
KIND_OFFSETS = {"s": 1, "R": 0, "a": 2}
"""Place of the kinds among the three tokens of a step: the state shows the cue, the other two are its neighbours."""


@dataclass(frozen=True)
class Cue:
    """Something shown during an episode."""

    steps: tuple[int, ...]
    """Environment steps that show it."""
    asked: int | None = None
    """Step at which it is needed; None for the last one of the episode, which nobody knows beforehand."""


def cues_of(info: Mapping[str, Any]) -> tuple[Cue, ...]:
    """The cues of an episode as its reset tells them; none where nothing has to be remembered.

    Raises:
        DataError: The environment contradicts itself.
    """
    steps = [int(step) for step in info["cue_steps"]] if "cue_steps" in info else []
    if not steps and "cue_step" in info:
        steps = [int(info["cue_step"])]
    repeats = int(info.get("cue_repeats", 1))
    asked = [int(step) for step in info.get("asked_steps", ())]
    if repeats < 1 or len(steps) % repeats or (asked and len(asked) != len(steps)):
        raise DataError(
            f"expected info['cue_steps'] in groups of cue_repeats and as many asked_steps, found {len(steps)} steps, "
            f"cue_repeats {repeats} and {len(asked)} asked_steps; mend the environment's reset"
        )
    found = [
        Cue(tuple(steps[start : start + repeats]), asked[start] if asked else None)
        for start in range(0, len(steps), repeats)
    ]
    if len(found) > MOST_CUES:
        found = [found[index] for index in np.linspace(0, len(found) - 1, MOST_CUES).round().astype(int)]
    return tuple(found)


class CueWatch:
    """Follows the cues of a batch of episodes through every layer and head.

    Args:
        cues: The cues of each episode, in batch order.
    """

    def __init__(self, cues: Sequence[Sequence[Cue]]) -> None:
        self.cues = cues
        most = max((len(several) for several in cues), default=0)
        repeats = max((len(cue.steps) for several in cues for cue in several), default=1)
        self.steps = np.full((len(cues), most, repeats), -1)
        for episode, several in enumerate(cues):
            for number, cue in enumerate(several):
                self.steps[episode, number, : len(cue.steps)] = cue.steps
        self.shown = self.steps.max(axis=2, initial=-1)  # step after which a cue is complete; -1 where there is none
        self.lost: dict[str, Int[np.ndarray, "episodes cues layers heads"]] = {}
        self.evicted = np.zeros(len(cues))

    @property
    def any(self) -> bool:
        """True if at least one episode has a cue."""
        return bool((self.shown >= 0).any())

    def must_look(self, live: Sequence[int], evicted: np.ndarray) -> bool:
        """Whether something was evicted since the last call, so that positions have to be read.

        Args:
            live: Episodes of the batch rows.
            evicted: Tokens that each of them has evicted so far, mean over layers and heads.
        """
        if not self.any:
            return False
        fresh = bool((evicted > self.evicted[live] + 1e-6).any())
        self.evicted[live] = evicted
        return fresh or not self.lost

    def look(self, step: int, live: Sequence[int], positions: Sequence[Int[np.ndarray, "live kv_heads slots"]]) -> None:
        """Notes which cues are gone since the last look.

        Args:
            step: Environment step, from 0.
            live: Episodes of the batch rows.
            positions: Positions held, one array a layer, -1 where there is none.
        """
        rows = np.asarray(live)
        for kind, offset in KIND_OFFSETS.items():
            if kind not in self.lost:
                self.lost[kind] = np.full((*self.shown.shape, len(positions), positions[0].shape[1]), -1)
            read = self.shown[rows] <= step - (kind == "a")  # an action is read one step after its state
            read &= self.shown[rows] >= 0
            token = np.where(self.steps[rows] >= 0, TOKENS_PER_STEP * self.steps[rows] + offset, -2)
            for layer, held in enumerate(positions):
                gone = read[:, :, None] & ~_holds(held, token)
                before = self.lost[kind][rows, :, layer]
                since = np.broadcast_to((step - self.shown[rows])[:, :, None], before.shape)
                self.lost[kind][rows, :, layer] = np.where(gone & (before < 0), since, before)

    def episode(self, index: int, length: int) -> dict[str, Any] | None:
        """What a row says about one finished episode (see evaluations/control/cells.py); None without cues.

        Args:
            index: Episode of the batch.
            length: Its steps. Cues that it did not live to see are left out.
        """
        cues = [(number, cue) for number, cue in enumerate(self.cues[index]) if self.shown[index, number] < length]
        if not cues or not self.lost:
            return None
        shown = [int(self.shown[index, number]) for number, _ in cues]
        asked = [length - 1 if cue.asked is None else min(cue.asked, length - 1) for _, cue in cues]
        described: dict[str, Any] = {"shown": shown, "asked": asked}
        by_head = self.lost["s"][index, [number for number, _ in cues]].reshape(len(cues), -1)
        described["lost"] = [[None if value < 0 else int(value) for value in cue] for cue in by_head]
        for kind in "Ra":
            neighbours = self.lost[kind][index, [number for number, _ in cues]].reshape(len(cues), -1)
            last = np.where((neighbours < 0).any(axis=1), -1, neighbours.max(axis=1))
            described[f"lost_{kind}"] = [None if value < 0 else int(value) for value in last]
        return described

    @property
    def heads(self) -> tuple[int, int]:
        """Layers and heads that are watched."""
        return self.lost["s"].shape[2:] if self.lost else (0, 0)


def _holds(
    held: Int[np.ndarray, "live kv_heads slots"], token: Int[np.ndarray, "live cues repeats"]
) -> Bool[np.ndarray, "live cues kv_heads"]:
    """Whether one of a cue's tokens is among the positions held."""
    found = held[:, None, :, :, None] == token[:, :, None, None, :]
    return found.any(axis=(3, 4))
