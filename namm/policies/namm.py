"""The NAMM as an eviction policy: its signals read at updates, scores from the evolved network.

Holds one parameter vector or a population of them; a batch row's sequence names the candidate that judges it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from namm.attention.factors import Factors
from namm.errors import AttachError, ConfigError
from namm.features import FeatureStatistics, check_statistics_mode, sequence_statistics
from namm.kernels.choice import can_fold
from namm.model import NAMM
from namm.policies.base import Places, Policy, Selection, State, TokenView
from namm.signals import Held, key_signals
from namm.spectrogram import fold_columns, fold_spectrum, hop_means


class NAMMPolicy(Policy):
    """Keeps what the NAMM scores at or above the threshold (0 as released), or its best within a budget."""

    name = "namm"
    defaults: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}
    observes_attention = True  # a NAMM without attention signals says False of itself

    def __init__(
        self,
        selection: Selection,
        namm: NAMM,
        statistics: str = "source",
        target_statistics: FeatureStatistics | None = None,
        population: Float[Tensor, "population params"] | None = None,
        candidate: Int[Tensor, " sequences"] | None = None,
        eager_chunk: int | None = None,
    ) -> None:
        """A NAMM, attached.

        Args:
            selection: The shared selection rule.
            namm: Features, scorer and the source's statistics.
            statistics: Whose mean and deviation the z-score uses: "source", "target" or "sequence".
            target_statistics: Needed by "target"; from :func:`namm.calibration.calibrate`.
            population: Parameter vectors that replace the NAMM's own.
            candidate: Row of ``population`` that judges each sequence, by sequence identity.
            eager_chunk: Attend as the released code does, so many queries at a time; None for fused attention, which
                is faster and differs by rounding only.

        Raises:
            ConfigError: ``target`` without statistics, a population without candidates, or an eager chunk that does
                not divide the interval or whose heads may keep different numbers of tokens.
            UnknownNameError: An unknown statistics mode.
        """
        super().__init__(selection)
        check_statistics_mode(statistics)
        if (statistics == "target") != (target_statistics is not None):
            raise ConfigError(
                f"statistics={statistics!r} and target_statistics={'given' if target_statistics else 'missing'} do not "
                "go together; run namm.calibration.calibrate on the target and pass its result with "
                "statistics='target'."
            )
        if (population is None) != (candidate is None):
            raise ConfigError("A population needs the candidate of each sequence, and candidates need a population.")
        if eager_chunk is not None:
            _check_eager(eager_chunk, selection)
        self.eager_chunk = eager_chunk
        self.observes_attention = namm.config.attention is not None
        if type(self).observe is NAMMPolicy.observe:  # who observes otherwise says so for himself
            self.observes_in_pieces = namm.config.hop
        self.namm = namm
        self.statistics = statistics
        self.target_statistics = target_statistics
        self.population = namm.flat.unsqueeze(0) if population is None else population
        self.candidate = candidate

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """The averaged spectrum and the last ``hop`` attention values of each token; nothing without attention."""
        if self.namm.config.attention is None:
            return {}
        return {"spectrum": (self.namm.config.bins,), "tail": (self.namm.config.hop,)}

    def observe(
        self, columns: Float[Tensor, "batch kv_heads slots queries"], state: State, places: Places | None = None
    ) -> State:
        """Folds the interval's frames into the averaged spectrum."""
        config = self.namm.config
        self._check_queries(columns.shape[-1])
        if config.attention == "mean":
            means = hop_means(columns, config.hop)
            average, tail = (
                fold_spectrum(state["spectrum"], means, config.hop, config.decay),
                columns[..., -config.hop :],
            )
        else:
            basis = self.namm.basis.to(columns.device)
            average, tail = fold_columns(columns, state["spectrum"], state["tail"], basis, config.decay)
        return {"spectrum": average, "tail": tail}

    def folds(self, query: Float[Tensor, "batch query_heads queries head_dim"], group: int, capped: bool) -> bool:
        """Where a kernel of ours can be used, and was found right."""
        config = self.namm.config
        return config.attention == "spectrogram" and can_fold(query, group, config.hop, capped)

    def fold(self, factors: Factors, state: State) -> State:
        """The same as :meth:`observe`, by that kernel."""
        from namm.kernels.fold import fold  # imports triton

        self._check_queries(factors.query.shape[2] // factors.group)
        basis = self.namm.basis.to(factors.key.device)
        average, tail = fold(factors, state["spectrum"], state["tail"], basis, self.namm.config.decay)
        return {"spectrum": average, "tail": tail}

    def _check_queries(self, queries: int) -> None:
        """Raises AttachError unless frames are whole."""
        if queries % self.namm.config.hop:
            raise AttachError(
                f"A NAMM reads attention in steps of {self.namm.config.hop} queries, found {queries} at once; use "
                "schedule='interval', or with schedule='prompt' a first call whose length is a multiple of that."
            )

    def score(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots"]:
        """The network's score under the chosen statistics."""
        features = self.features(view)
        device = features.device
        judge = torch.zeros_like(view.sequences)
        if self.candidate is not None:
            judge = self.candidate.to(device)[view.sequences]
        return self.namm.scorer(self.population.to(device), features, view.valid, judge)

    def spectrum(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots bins"]:
        """What is seen of attention, before any statistics; of no width for a NAMM that reads none."""
        if self.namm.config.attention is None:
            return torch.zeros(*view.valid.shape, 0, device=view.valid.device)
        return view.state["spectrum"]

    def features(self, view: TokenView) -> Float[Tensor, "batch kv_heads slots features"]:
        """What the network is shown of each token."""
        spectrum = self.spectrum(view)
        if self.statistics == "sequence":
            mean, deviation = sequence_statistics(spectrum, view.valid)
        else:
            known = self.namm.statistics if self.target_statistics is None else self.target_statistics
            mean, deviation = (part.to(spectrum.device) for part in known.of_layer(view.layer))
        names, of_keys = self.namm.config.of_keys, None
        if names:
            of_keys = key_signals(names, Held(view.keys, view.values, view.valid))
        return self.namm.token_features(spectrum, view.age, mean, deviation, of_keys)

    def describe(self) -> dict[str, object]:
        """Facts for a row: whose statistics, and which NAMM."""
        eager = {} if self.eager_chunk is None else {"eager_chunk": self.eager_chunk}
        return {**super().describe(), "statistics": self.statistics, "namm_sha256": self.namm.sha256(), **eager}


def _check_eager(chunk: int, selection: Selection) -> None:
    """Raises ConfigError for settings under which eager attention is not the released code's."""
    if chunk < 1 or selection.interval is None or selection.interval % chunk or selection.schedule != "interval":
        raise ConfigError(
            f"Eager attention runs in chunks that divide the update interval, found eager_chunk={chunk}, "
            f"interval={selection.interval} and schedule={selection.schedule!r}; use "
            "eager_chunk=128 with an interval of 512 as released."
        )
    if selection.heads != "equal":
        raise ConfigError(
            f"Eager attention needs heads that keep equally many tokens, found heads={selection.heads!r}; use "
            "heads='equal', or leave eager_chunk out."
        )
