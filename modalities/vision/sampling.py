"""Which frames of a video are seen, as each benchmark chooses them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from namm.errors import ConfigError, DataError, did_you_mean

Sampling = Literal["all", "left", "even", "ends"]
"""How so many frames are chosen of all:

- "all": every one, however many are asked for;
- "left": at whole steps from the first on, ``int(total / n) * i``, at most one a second (LongVideoBench);
- "even": at equal steps of any length, ``int(total / n * i)`` (LLaVA-NeXT-Video's demonstration);
- "ends": spread from the first to the last, both seen (lmms-eval: MLVU, Video-MME).
"""


def sampled(total: int, frames: int | None, rule: str, duration: float, source: str = "array") -> list[int]:
    """Which of `total` frames are seen, ascending.

    Args:
        total: Frames there are.
        frames: How many are wanted; None for all.
        rule: How they are chosen, one of `Sampling`.
        duration: Of the video in seconds.
        source: For messages.

    Raises:
        ConfigError: No such rule, or no frames wanted.
        DataError: There are fewer than wanted.
    """
    if rule not in get_args(Sampling):
        raise ConfigError(f"Unknown way of sampling {rule!r}. {did_you_mean(rule, get_args(Sampling))}")
    if frames is not None and frames < 1:
        raise ConfigError(f"Expected at least one frame to be seen, found {frames}.")
    if frames is None or rule == "all":
        return list(range(total))
    wanted = max(1, min(frames, int(duration))) if rule == "left" else frames
    if wanted > total:
        raise DataError(
            f"{source}: expected at least {wanted} frames, found {total}; ask for fewer, or leave this video out."
        )
    if rule == "left":
        return [total // wanted * place for place in range(wanted)]
    if rule == "even":
        return [total * place // wanted for place in range(wanted)]
    return np.linspace(0, total - 1, wanted).astype(int).tolist()
