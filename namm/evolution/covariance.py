"""The three shapes a search distribution can take, behind one small interface.

A covariance turns standard normal vectors into steps (`colour`), turns steps back (`whiten`), and learns from ranked
steps (`update`). ``Isotropic`` never learns, ``Diagonal`` holds one variance a parameter, ``Full`` holds the matrix and
its eigenvectors. A full matrix is decomposed rarely: between two decompositions it may change only by about a tenth.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from namm.evolution.rates import CMAESConfig, Rates

_SMALLEST_EIGENVALUE = 1e-20


class Covariance(ABC):
    """Covariance of the steps, before they are multiplied by the step size."""

    @abstractmethod
    def refresh(self, generation: int) -> None:
        """Brings the factors used by `colour` and `whiten` up to date; does nothing when called twice."""

    @abstractmethod
    def colour(self, normal: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Steps with this covariance from standard normal vectors."""

    @abstractmethod
    def whiten(self, steps: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """The steps times the inverse square root of the covariance that drew them."""

    @abstractmethod
    def update(
        self,
        keep: float,
        c_1: float,
        path: Float[Tensor, " params"],
        weights: Float[Tensor, " population"],
        steps: Float[Tensor, "population params"],
    ) -> None:
        """Replaces C by ``keep C + c_1 path path' + sum_i weights_i step_i step_i'`` (tutorial, eq. 47)."""

    @property
    @abstractmethod
    def axis_ratio(self) -> float:
        """Longest over shortest axis of the ellipsoid drawn from (square root of the condition number)."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved, by name."""

    @abstractmethod
    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Takes over saved tensors.

        Args:
            tensors: What `tensors` returned, copied.
            generation: Generation at which it was saved.
            refreshed_at: Generation of the last decomposition.
        """

    refreshed_at: int = -1
    """Generation of the last decomposition; -1 before the first."""


class Isotropic(Covariance):
    """The identity, for ever."""

    def refresh(self, generation: int) -> None:
        """Nothing to do."""

    def colour(self, normal: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """The vectors themselves."""
        return normal

    def whiten(self, steps: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """The steps themselves."""
        return steps

    def update(
        self,
        keep: float,
        c_1: float,
        path: Float[Tensor, " params"],
        weights: Float[Tensor, " population"],
        steps: Float[Tensor, "population params"],
    ) -> None:
        """Nothing is learned."""

    @property
    def axis_ratio(self) -> float:
        """Always 1."""
        return 1.0

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Nothing to take over."""


class Diagonal(Covariance):
    """One variance a parameter."""

    def __init__(self, params: int, config: CMAESConfig) -> None:
        self._variances = torch.ones(params, dtype=torch.float64)
        self._shift = config.initial_shift
        self.refresh(0)

    def refresh(self, generation: int) -> None:
        """Takes the square roots."""
        shift = self._shift if generation == 0 else 0.0
        self._deviations = (self._variances + shift).clamp_min(_SMALLEST_EIGENVALUE).sqrt()

    def colour(self, normal: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Multiplies by the deviations."""
        return normal * self._deviations

    def whiten(self, steps: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Divides by the deviations."""
        return steps / self._deviations

    def update(
        self,
        keep: float,
        c_1: float,
        path: Float[Tensor, " params"],
        weights: Float[Tensor, " population"],
        steps: Float[Tensor, "population params"],
    ) -> None:
        """The diagonal of the full update."""
        self._variances = keep * self._variances + c_1 * path.square() + weights @ steps.square()

    @property
    def axis_ratio(self) -> float:
        """Largest over smallest deviation."""
        return float(self._deviations.max() / self._deviations.min())

    def tensors(self) -> dict[str, Tensor]:
        """The variances."""
        return {"variances": self._variances}

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Takes over the variances."""
        self._variances = tensors["variances"]
        self.refresh(generation)


class Full(Covariance):
    """The whole matrix, with eigenvectors that are renewed every so many generations."""

    def __init__(self, params: int, config: CMAESConfig, rates: Rates) -> None:
        # the tutorial's section B.2: decompose after 1 / (10 n (c_1 + c_mu)) generations
        lazy = math.floor(1 / (10 * params * (rates.c_1 + rates.c_mu)))
        self._gap = config.decompose_every or max(1, lazy)
        self._shift = config.initial_shift
        self.matrix: Float[Tensor, "params params"] = torch.eye(params, dtype=torch.float64)

    def refresh(self, generation: int) -> None:
        """Decomposes the matrix when the last decomposition is old enough."""
        if self.refreshed_at < 0:
            self._axes, self._lengths = _shifted_identity(len(self.matrix), self._shift)
        elif generation - self.refreshed_at >= self._gap:
            self._axes, self._lengths = _decompose(self.matrix)
        else:
            return
        self.refreshed_at = generation

    def colour(self, normal: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Stretches along the axes and rotates."""
        return (normal * self._lengths) @ self._axes.T

    def whiten(self, steps: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Applies the symmetric inverse square root."""
        return ((steps @ self._axes) / self._lengths) @ self._axes.T

    def update(
        self,
        keep: float,
        c_1: float,
        path: Float[Tensor, " params"],
        weights: Float[Tensor, " population"],
        steps: Float[Tensor, "population params"],
    ) -> None:
        """Rank-one and rank-mu update in one product, in place."""
        vectors = torch.cat([path[None], steps])
        scales = torch.cat([weights.new_tensor([c_1]), weights])
        self.matrix.addmm_((scales[:, None] * vectors).T, vectors, beta=keep)

    @property
    def axis_ratio(self) -> float:
        """Ratio of the axes at the last decomposition; 1 before the first."""
        return float(self._lengths.max() / self._lengths.min()) if self.refreshed_at >= 0 else 1.0

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the matrix, which is updated in place, and the axes, because the matrix has moved on since."""
        if self.refreshed_at < 0:
            return {"matrix": self.matrix.clone()}
        return {"matrix": self.matrix.clone(), "axes": self._axes, "lengths": self._lengths}

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Takes over matrix and axes."""
        self.matrix, self.refreshed_at = tensors["matrix"], refreshed_at
        if refreshed_at >= 0:
            self._axes, self._lengths = tensors["axes"], tensors["lengths"]


def make_covariance(params: int, config: CMAESConfig, rates: Rates) -> Covariance:
    """A covariance of the configured shape, equal to the identity."""
    if config.covariance == "isotropic":
        return Isotropic()
    if config.covariance == "diagonal":
        return Diagonal(params, config)
    return Full(params, config, rates)


def _shifted_identity(params: int, shift: float) -> tuple[Float[Tensor, "params params"], Float[Tensor, " params"]]:
    """Axes and their lengths for the identity plus `shift` in every entry, in closed form.

    The shift adds ``params * shift`` to the variance along (1, ..., 1); a Householder reflection makes that the first
    axis. It saves the first generation a decomposition that takes a minute at 4172 parameters.
    """
    axes = torch.eye(params, dtype=torch.float64)
    lengths = torch.ones(params, dtype=torch.float64)
    if shift > 0:
        normal = torch.full((params,), 1 / math.sqrt(params), dtype=torch.float64)
        normal[0] += 1  # to minus the diagonal: no cancellation, and no special case for one parameter
        axes.addr_(normal, normal, alpha=-2 / float(normal @ normal))
    lengths[0] = math.sqrt(1 + params * shift)
    return axes, lengths


def _decompose(
    matrix: Float[Tensor, "params params"],
) -> tuple[Float[Tensor, "params params"], Float[Tensor, " params"]]:
    """Eigenvectors (columns) and square roots of the eigenvalues of the symmetric part.

    SciPy, because torch's CPU wheels take twice as long for this at 4172 parameters.
    """
    symmetric = np.asfortranarray(((matrix + matrix.T) / 2).numpy())
    eigenvalues, axes = scipy.linalg.eigh(symmetric, overwrite_a=True, check_finite=True, driver="evd")
    eigenvalues[eigenvalues <= 0] = _SMALLEST_EIGENVALUE
    return torch.from_numpy(np.ascontiguousarray(axes)), torch.from_numpy(np.sqrt(eigenvalues))
