"""The three shapes a search distribution can take, behind one small interface.

A covariance turns standard normal vectors into steps (`colour`), turns steps back (`whiten`), and learns from ranked
steps (`update`). ``Isotropic`` never learns, ``Diagonal`` holds one variance a parameter, ``Full`` a matrix and its
eigenvectors. A full matrix is decomposed rarely: between two decompositions it may change only by about a tenth.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

CovarianceName = Literal["full", "diagonal", "isotropic"]

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
        """What has to be saved, by name; untouched by later generations."""

    @abstractmethod
    def shapes(self, generation: int, refreshed_at: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what `tensors` returns at a generation, all float64."""

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

    def shapes(self, generation: int, refreshed_at: int) -> dict[str, tuple[int, ...]]:
        """Nothing."""
        return {}

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Nothing to take over."""


class Diagonal(Covariance):
    """One variance a parameter."""

    def __init__(self, params: int, shift: float) -> None:
        """The identity; ``shift`` is added to every variance while the first generation is drawn."""
        self._variances = torch.ones(params, dtype=torch.float64)
        self._shift = shift
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

    def shapes(self, generation: int, refreshed_at: int) -> dict[str, tuple[int, ...]]:
        """One variance a parameter."""
        return {"variances": tuple(self._variances.shape)}

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Takes over the variances."""
        self._variances = tensors["variances"]
        self.refresh(generation)


class Full(Covariance):
    """The whole matrix, as it was when it was last decomposed, and the low-rank updates that came since.

    Nothing reads the matrix between two decompositions, so an update costs nothing, and what has to be saved is one
    triangle and a few vectors: at 4172 parameters 28 MB before the first decomposition and at most 97 MB after it.
    """

    def __init__(self, params: int, shift: float, population: int, gap: int) -> None:
        """The identity.

        Args:
            params: Rows.
            shift: Added to every entry while the first generation is drawn.
            population: Steps of one update.
            gap: Generations between two decompositions.
        """
        self._gap, self._shift = gap, shift
        self._params, self._vectors = params, population + 1
        self._base: Float[Tensor, "params params"] | None = None  # None: the identity
        self._axes: Float[Tensor, "params params"] | None = None
        self._lengths = torch.ones(params, dtype=torch.float64)
        self._pending: list[tuple[float, Tensor, Tensor]] = []

    @property
    def matrix(self) -> Float[Tensor, "params params"]:
        """The matrix with every update, exactly symmetric."""
        matrix = torch.eye(self._params, dtype=torch.float64) if self._base is None else self._base.clone()
        for keep, scales, vectors in self._pending:
            matrix.addmm_((scales[:, None] * vectors).T, vectors, beta=keep)
        return (matrix + matrix.T) / 2

    def refresh(self, generation: int) -> None:
        """Decomposes the matrix when the last decomposition is old enough."""
        if self.refreshed_at >= 0 and generation - self.refreshed_at >= self._gap:
            self._base = self.matrix
            self._pending = []
            self._axes, self.refreshed_at = None, generation
        self.refreshed_at = max(self.refreshed_at, 0)
        if self._axes is not None:
            return
        if self._base is None:
            self._axes, self._lengths = _shifted_identity(self._params, self._shift)
        else:
            self._axes, self._lengths = _decompose(self._base)

    @property
    def _decomposed_axes(self) -> Float[Tensor, "params params"]:
        if self._axes is None:
            raise RuntimeError("expected a decomposed matrix, found none; call `refresh` before `colour` and `whiten`")
        return self._axes

    def colour(self, normal: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Stretches along the axes and rotates."""
        return (normal * self._lengths) @ self._decomposed_axes.T

    def whiten(self, steps: Float[Tensor, "population params"]) -> Float[Tensor, "population params"]:
        """Applies the symmetric inverse square root."""
        axes = self._decomposed_axes
        return ((steps @ axes) / self._lengths) @ axes.T

    def update(
        self,
        keep: float,
        c_1: float,
        path: Float[Tensor, " params"],
        weights: Float[Tensor, " population"],
        steps: Float[Tensor, "population params"],
    ) -> None:
        """Rank-one and rank-mu update, to be applied at the next decomposition."""
        scales = torch.cat([weights.new_tensor([c_1]), weights])
        self._pending.append((keep, scales, torch.cat([path[None], steps])))

    @property
    def axis_ratio(self) -> float:
        """Ratio of the axes at the last decomposition; 1 before the first."""
        return float(self._lengths.max() / self._lengths.min())

    def tensors(self) -> dict[str, Tensor]:
        """The lower triangle of the matrix decomposed last, its axes' lengths, and the updates since."""
        triangle = torch.zeros(0, dtype=torch.float64)
        if self._base is not None:
            triangle = torch.cat([self._base[row, : row + 1] for row in range(self._params)])
        keeps = torch.tensor([keep for keep, _, _ in self._pending], dtype=torch.float64)
        none = torch.zeros(0, self._vectors, dtype=torch.float64)
        scales = torch.stack([scales for _, scales, _ in self._pending]) if self._pending else none
        vectors = [vectors for _, _, vectors in self._pending] or [none[..., None].expand(0, -1, self._params)]
        return {
            "triangle": triangle,
            "lengths": self._lengths,
            "keeps": keeps,
            "scales": scales,
            "vectors": torch.stack(vectors) if self._pending else vectors[0],
        }

    def shapes(self, generation: int, refreshed_at: int) -> dict[str, tuple[int, ...]]:
        """As `tensors`."""
        params, updates = self._params, generation - max(refreshed_at, 0)
        return {
            "triangle": (params * (params + 1) // 2 if refreshed_at > 0 else 0,),
            "lengths": (params,),
            "keeps": (updates,),
            "scales": (updates, self._vectors),
            "vectors": (updates, self._vectors, params),
        }

    def load(self, tensors: dict[str, Tensor], generation: int, refreshed_at: int) -> None:
        """Takes over matrix and updates; the axes are computed again when they are needed."""
        self.refreshed_at, self._lengths, self._axes, self._base = refreshed_at, tensors["lengths"], None, None
        if tensors["triangle"].numel():
            rows, columns = torch.tril_indices(self._params, self._params)
            self._base = torch.empty(self._params, self._params, dtype=torch.float64)
            self._base[rows, columns] = tensors["triangle"]
            self._base[columns, rows] = tensors["triangle"]
        self._pending = [
            (float(keep), scales.clone(), vectors.clone())
            for keep, scales, vectors in zip(tensors["keeps"], tensors["scales"], tensors["vectors"], strict=True)
        ]


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
    """Eigenvectors (columns) and square roots of the eigenvalues of a symmetric matrix.

    SciPy, because torch's CPU wheels take twice as long for this at 4172 parameters.
    """
    symmetric = matrix.clone().T.numpy()  # memory of torch is aligned, so equal matrices give equal last bits
    eigenvalues, axes = scipy.linalg.eigh(symmetric, overwrite_a=True, check_finite=True, driver="evd")
    eigenvalues[eigenvalues <= 0] = _SMALLEST_EIGENVALUE
    return torch.from_numpy(np.ascontiguousarray(axes)), torch.from_numpy(np.sqrt(eigenvalues))
