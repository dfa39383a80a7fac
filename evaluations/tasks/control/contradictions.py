"""What offline data say against themselves, as remarks for whoever uses them: nothing here refuses data.

Where a file stores no next observations nothing proves that its episodes end where it says. But a state moves little
in a step and far when an environment is reset, so the ends can be seen: by jumps where none should be, and by ends at
which the states simply go on. A jump is judged against what each number of the state usually does in one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluations.tasks.control import d4rl
from namm.errors import UnknownNameError

FAR = 5
"""Steps by which flags are looked for out of step."""
FEWEST = 3
"""Ends that such a judgement needs."""
SAMPLE = 100_000
"""Steps that the usual movement is taken from."""
LARGE = 2.5
"""A jump moves a state by so many times what nine of ten steps move it by, and more."""
SIZES = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}
"""Numbers in the states and actions of D4RL's robots."""


def end_remarks(states: Float[np.ndarray, "steps state"], ends: Int[np.ndarray, " episodes"]) -> list[str]:
    """What the states say about where episodes end.

    Args:
        states: Of all steps, episode after episode.
        ends: Index of the last step of each episode.
    """
    if len(states) < 3 * FAR:
        return []
    largest, mean = _moves(states)
    if largest is None:
        return []
    inner = ends[(ends >= FAR) & (ends < len(largest) - FAR)]
    inside = np.ones(len(largest), bool)
    inside[ends[ends < len(largest)]] = False
    remarks = _shifted(largest, inner)
    jumps = _jumps(mean, inside, inner)
    if len(jumps) and not remarks:
        remarks.append(
            f"states jump {len(jumps)} times inside episodes as they do where one ends, first after step {jumps[0]}: "
            "is an end missing or out of step?"
        )
    if len(inner) >= FEWEST and not remarks:
        usual = np.sort(largest[inside])
        ranks = np.searchsorted(usual, largest[inner]) / len(usual)
        if ranks.mean() < 0.7:
            remarks.append(
                f"states go on across {int((ranks < 0.7).sum())} of {len(inner)} ends as inside episodes: are the ends "
                "out of step, or is the environment not reset there?"
            )
    return remarks


def _moves(
    states: Float[np.ndarray, "steps state"],
) -> tuple[Float[np.ndarray, " moves"] | None, Float[np.ndarray, " moves"]]:
    """How far each step moves the state, by the number that moves most and on average; None where it jumps always."""
    moved = np.abs(np.diff(states, axis=0))
    usual = np.quantile(moved[:: max(1, len(moved) // SAMPLE)], 0.9, axis=0)
    spread = states[:: max(1, len(states) // SAMPLE)].std(axis=0)
    told = usual > 1e-9 * np.maximum(spread, 1e-9)
    if not told.any() or np.median(usual[told] / np.maximum(spread[told], 1e-12)) > 1.5:
        return None, moved[:, 0]  # neighbours are as far apart as any two states (of a normal spread: 2.3)
    relative = moved[:, told] / usual[told]
    return relative.max(axis=1), relative.mean(axis=1)


def _shifted(moves: Float[np.ndarray, " moves"], ends: Int[np.ndarray, " episodes"]) -> list[str]:
    """Whether states jump at the same distance from most ends, and not at the ends."""
    if not len(ends):
        return []
    jumps = {step: moves[ends + step] for step in range(-FAR, FAR + 1)}
    best = max(jumps, key=lambda step: float(np.median(jumps[step])))
    many = len(ends) >= FEWEST
    ahead = jumps[best] > (1.5 if many else 4.0) * jumps[0]
    least = 2.0 * np.median(moves) if many else LARGE * np.quantile(moves, 0.9)
    if best == 0 or ahead.mean() < 0.6 or np.median(jumps[best]) < least:
        return []
    where = f"{abs(best)} step{'s' if abs(best) > 1 else ''} {'before' if best < 0 else 'after'}"
    return [
        f"terminals and timeouts are out of step: at {int(ahead.sum())} of {len(ends)} ends the states jump {where} "
        "the end and not at it; episodes hold states of their neighbours"
    ]


def _jumps(
    moves: Float[np.ndarray, " moves"], inside: Bool[np.ndarray, " moves"], ends: Int[np.ndarray, " episodes"]
) -> Int[np.ndarray, " jumps"]:
    """Steps inside episodes that move the state as far as a reset does: as at the ends, or by far too much."""
    far = LARGE * float(np.quantile(moves[inside], 0.9))
    at_ends = float(np.quantile(moves[ends], 0.25)) if len(ends) >= FEWEST else 0.0
    least = at_ends if at_ends > far else 2.0 * far
    begun = inside.copy()
    for step in range(FAR + 1):  # a robot that is dropped moves far in its first steps
        begun[np.minimum(np.append(ends + 1 + step, step), len(begun) - 1)] = False
    return np.flatnonzero(begun & (moves > least))


def score_remarks(reference: tuple[float, float] | None, names: Sequence[str | None], kept_in: str) -> list[str]:
    """Says where stored reference scores are not those of D4RL.

    Args:
        reference: (random, expert) as stored.
        names: Of the D4RL set or the environment; the first that D4RL has scores for counts.
        kept_in: What stores them, as in "the file".
    """
    if reference is None:
        return []
    for name in names:
        try:
            known = d4rl.reference_scores(name) if name else None
        except UnknownNameError:
            continue
        if known is None:
            continue
        if np.allclose(reference, known, rtol=1e-4, atol=1e-4 * (known[1] - known[0])):
            return []
        return [
            f"the reference scores in {kept_in} (random {reference[0]:g}, expert {reference[1]:g}) are not D4RL's for "
            f"{name} ({known[0]:g}, {known[1]:g}): normalised scores do not compare with D4RL's tables"
        ]
    return []


def name_remarks(env_id: str | None, task: str | None, state: int | None, action: int | None) -> list[str]:
    """Says where the environment of data, the set that its name speaks of, and the sizes of its arrays disagree."""
    robots = {_robot(name) for name in (env_id, task) if name} & SIZES.keys()
    if len(robots) > 1:
        return [f"the file is named after {task}, but says that its environment is {env_id}"]
    for robot in robots:
        if state is not None and (state, action) != SIZES[robot]:
            return [
                f"{env_id or task} has states of {SIZES[robot][0]} and actions of {SIZES[robot][1]} numbers, these "
                f"data have {state} and {action}"
            ]
    return []


def _robot(name: str) -> str:
    return name.rpartition("/")[2].rpartition(":")[2].lower().partition("-")[0]
