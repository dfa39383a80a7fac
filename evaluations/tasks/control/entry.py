"""The one door through which episodes of offline data enter, whatever file they lie in.

An episode of T steps has T actions and rewards and T + 1 observations, the last of them after the last action. Writers
get that wrong in many ways (as many observations as actions, one array shorter, flags of another length, a state of
another width), and whoever indexes such arrays goes on with shifted ones. So each episode is checked as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from evaluations.tasks.control.d4rl import Episode
from namm.errors import DataError


class Entrance:
    """Checks the episodes of one dataset, one after the other.

    Args:
        name: Of the file or set, for errors.
        state: Numbers in a state, where the dataset says so; else the first episode does.
        action: The same of an action.
    """

    def __init__(self, name: str, state: int | None = None, action: int | None = None) -> None:
        self.name = name
        self.early_ends = 0
        """Episodes with an end flagged before their last step."""
        self._widths: dict[str, int | None] = {"observations": state, "actions": action}

    def admit(
        self,
        number: int | str,
        observations: Float[np.ndarray, "steps state"],
        last_observation: Float[np.ndarray, " state"] | None,
        actions: Float[np.ndarray, "steps action"],
        rewards: Float[np.ndarray, " steps"],
        terminations: Any,
        truncations: Any | None,
    ) -> Episode:
        """The episode that these arrays are.

        Args:
            number: Of the episode, for errors.
            observations: State before each action; with None as `last_observation` also the state after the last one.
            last_observation: State after the last action.
            actions: One a step.
            rewards: One a step.
            terminations: A flag a step.
            truncations: A flag a step; None where nothing is known but where the episode ends.

        Raises:
            DataError: They do not fit together, or hold something else than finite numbers.
        """
        arrays = {"observations": observations, "actions": actions, "rewards": rewards}
        for name, values in arrays.items():
            self._check_numbers(number, name, values)
        flags = {"terminations": terminations, "truncations": truncations}
        counts = {name: len(values) for name, values in (arrays | flags).items() if values is not None}
        counts["observations"] += last_observation is not None
        steps = counts["rewards"]
        expected = dict.fromkeys(counts, steps) | {"observations": steps + 1}
        if steps < 1 or counts != expected:
            raise DataError(
                f"expected {max(steps, 1)} actions, flags and rewards and one observation more in episode {number} of "
                f"{self.name}, found {', '.join(f'{count} {name}' for name, count in counts.items())}; repair it or "
                "leave it out"
            )
        if last_observation is None:
            observations, last = observations[:-1], observations[-1]
        else:
            last = last_observation
            self._check_numbers(number, "observations", last[None])
        ended = np.asarray(terminations, bool)
        timed_out = None if truncations is None else np.asarray(truncations, bool)
        self.early_ends += bool(ended[:-1].any() or (timed_out is not None and timed_out[:-1].any()))
        over = None if timed_out is None else bool(timed_out[-1])
        return Episode(observations, actions, rewards, last, bool(ended[-1]), over)

    def remarks(self) -> list[str]:
        """What a careful reader should know of the episodes that came in."""
        if not self.early_ends:
            return []
        return [f"{self.early_ends} episodes have an end flagged before their last step; each is read as one episode"]

    def _check_numbers(self, number: int | str, name: str, values: np.ndarray) -> None:
        where = f"{name} of episode {number} of {self.name}"
        dimensions = 1 if name == "rewards" else 2
        if values.ndim != dimensions or not np.issubdtype(values.dtype, np.floating):
            kind = "one number a step" if dimensions == 1 else "a vector of numbers a step"
            raise DataError(f"expected {kind} in {where}, found shape {values.shape} of {values.dtype}; repair it")
        if dimensions == 2:
            expected = self._widths[name]
            if expected is None:
                expected = self._widths[name] = values.shape[1]
            if values.shape[1] != expected or not expected:
                raise DataError(
                    f"expected vectors of {max(expected, 1)} numbers in {where}, found {values.shape[1]}; repair it"
                )
        if not np.isfinite(values).all():
            raise DataError(f"expected finite numbers in {where}, found NaN or infinity; repair it")


def total_steps(episodes: Sequence[Episode]) -> int:
    """Steps of all episodes."""
    return sum(len(episode.rewards) for episode in episodes)
