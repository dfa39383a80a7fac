"""PyramidKV: SnapKV's scores, with budgets that fall from the lowest layer to the highest (arXiv 2406.02069).

Lower layers spread their attention, higher ones gather it on few tokens. Budgets fall by equal steps and their mean is
``budget``, so that the model holds what it would hold under SnapKV; the observation window comes on top in every layer
alike. The division itself is ``layer_allocation="pyramid"`` of the selection and goes with any policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from namm.policies.snapkv import SnapKV


class PyramidKV(SnapKV):
    """SnapKV in a pyramid; ``steepness`` is the paper's beta."""

    name = "pyramidkv"
    defaults: ClassVar[Mapping[str, Any]] = {"layer_allocation": "pyramid"}
