"""Ada-KV: SnapKV's scores, with a layer's slots divided among its heads by what they attend to (arXiv 2407.11550).

All tokens of a layer compete for ``heads x budget`` slots, and a head is sure of ``safeguard`` parts of an even share.
The division itself is ``head_allocation="adaptive"`` of the selection and goes with any policy whose scores can be
compared between heads, as attention can; with ``layer_allocation="pyramid"`` beside it, it is the paper's Ada-Pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from namm.policies.snapkv import SnapKV


class AdaKV(SnapKV):
    """SnapKV with competing heads; ``safeguard`` is the paper's alpha."""

    name = "adakv"
    defaults: ClassVar[Mapping[str, Any]] = {"head_allocation": "adaptive"}
