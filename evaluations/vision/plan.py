"""The policies that watch videos: all that read prompts, those that judge frames, and frames chosen beforehand.

Who is given which size is the same wherever there are prompts (evaluations/experiment/matched_plan.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluations.experiment import matched_plan
from evaluations.experiment.names import NAMMS, RELEASED, NamedPolicy, rivals, with_heads
from evaluations.rows.policy_names import FULL
from namm.policies import POLICIES

FRAME_SELECTION = "frame_selection"
"""No policy: the frames that fit the question best are chosen before the language model reads any, and all is kept."""
JUDGED = ("relevance", "redundancy")
"""Policies that keep the frames which a CLIP finds best."""
NEED_CLIP = (*JUDGED, FRAME_SELECTION)
UNKNOWN_HERE = ("fastgen",)
"""Policies that treat words by their kinds, which placeholders of pictures have none of."""


def watchers() -> tuple[str, ...]:
    """Rivals that can watch a video, whether or not there is a CLIP."""
    return tuple(name for name in rivals() if POLICIES[name].foresees != "repetition" and name not in UNKNOWN_HERE)


PICTURES = ("fastv",)
"""Policies that must know which tokens are pictures."""
NAMES = (FULL, *(name for name in NAMMS if name != "namm:target"), RELEASED, *watchers(), *PICTURES, *NEED_CLIP,
         *with_heads(watchers()))  # fmt: skip
"""What can be named."""
DEFAULT = (FULL, NAMMS[0], "window", "sink_window", "random", "h2o", "tova", "l2_norm", "snapkv", "keydiff", "fastv")
"""What is compared where nothing is named; `NEED_CLIP` too, where there is a CLIP."""


def chosen(names: Sequence[str], match: str | None, sized: bool) -> tuple[tuple[NamedPolicy, ...], str | None]:
    """See `evaluations.experiment.matched_plan.chosen`."""
    return matched_plan.chosen(names, match, sized, NAMES)
