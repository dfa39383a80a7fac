"""Feature statistics of a model, without labels: what its attention looks like while nothing is forgotten.

The released code takes the source's statistics from such a full-cache pass; the same pass over a target gives
``statistics="target"``. No gradient, no reward and no search is involved, but it does look at the target's inputs,
so results must say that it was used.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Float
from torch import Tensor

from namm.config import check_interval
from namm.errors import DataError
from namm.features import FeatureStatistics, RunningStatistics
from namm.model import NAMM
from namm.policies.base import Places, Policy, Selection, State, TokenView
from namm.policies.namm import NAMMPolicy


class Calibration(Policy):
    """Keeps everything and pools the spectra of all tokens at every update, per layer.

    Attach it, run the model over some of its ordinary inputs, detach, then take :meth:`statistics`.
    """

    name = "calibration"
    observes_attention = True

    def __init__(self, namm: NAMM, interval: int, layers: int) -> None:
        """A calibration pass for a NAMM.

        Args:
            namm: Whose features are measured.
            interval: Tokens between two updates, as it will be used.
            layers: Layers of the target.

        Raises:
            ConfigError: The interval is not a multiple of the hop.
        """
        check_interval(interval, namm.config.hop)
        super().__init__(Selection(interval=interval))
        self._observer = NAMMPolicy(self.selection, namm)
        self.observes_attention = self._observer.observes_attention
        self._running = RunningStatistics(layers, namm.config.bins)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """As the NAMM's."""
        return self._observer.state_shapes()

    def observe(self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places) -> State:
        """As the NAMM's."""
        return self._observer.observe(columns, state, places)

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """Adds the spectra to the pool; no token is judged."""
        self._running.add(view.layer, self._observer.spectrum(view)[view.valid])
        return view.positions.float() * 0.0

    def statistics(self, pooled: bool = False) -> FeatureStatistics:
        """The result.

        Args:
            pooled: One pair for all layers (as a source's, for a checkpoint) instead of one a layer (a target's).

        Raises:
            DataError: Some layer saw no update: the inputs were shorter than the interval.
        """
        if bool((self._running.count == 0).any()):
            raise DataError(
                f"The calibration pass saw no update in some layer: inputs must be at least one interval "
                f"({self.selection.interval} tokens) long. Give longer inputs or a shorter interval."
            )
        return self._running.pooled() if pooled else self._running.per_layer()


def with_statistics(namm: NAMM, statistics: FeatureStatistics) -> NAMM:
    """The same parameters with another source's statistics frozen in."""
    return NAMM(dataclasses.replace(namm.config), namm.flat, statistics)
