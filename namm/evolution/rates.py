"""The constants of CMA-ES: selection weights and learning rates, from population, parents and number of parameters.

Three published families of constants share one update rule: ``released`` (the code published with the NAMM paper),
``tutorial`` (Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; equation numbers refer to it) and
``separable`` (sep-CMA-ES for a diagonal covariance, Ros and Hansen 2008, in the form the `cmaes` package gives it).
At 4172 parameters the first two need about a million generations to learn a covariance, the third about 750.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RatesName = Literal["released", "tutorial", "separable"]


@dataclass(frozen=True)
class Rates:
    """Selection weights and learning rates of one CMA-ES."""

    weights: tuple[float, ...]
    """Weight of each rank, best first; the positive ones sum to 1."""
    mu_eff: float
    """Effective number of parents."""
    c_1: float
    """Learning rate of the rank-one update."""
    c_mu: float
    """Learning rate of the rank-mu update."""
    c_sigma: float
    """Learning rate of the step-size path."""
    d_sigma: float
    """Damping of the step size."""
    c_c: float
    """Learning rate of the covariance path."""

    @staticmethod
    def of(family: RatesName, params: int, parents: int, population: int) -> Rates:
        """The constants of a family.

        Args:
            family: Which.
            params: Number of parameters searched.
            parents: Candidates that move the mean.
            population: Candidates per generation.
        """
        if family == "separable":
            return _separable(params, parents, population)
        return _active(params, parents, population, newest_c_mu=family == "tutorial")


def expected_norm(params: int) -> float:
    """Mean length of a standard normal vector (approximation of the tutorial, below equation 43)."""
    return math.sqrt(params) * (1 - 1 / (4 * params) + 1 / (21 * params**2))


def _effective(raw: list[float]) -> float:
    return sum(raw) ** 2 / sum(w * w for w in raw)


def _active(n: int, parents: int, population: int, newest_c_mu: bool) -> Rates:
    """CMA-ES with negative weights; the two families differ by the 1/4 in c_mu."""
    raw = [math.log((population + 1) / 2) - math.log(i) for i in range(1, population + 1)]  # eq. 49
    best = raw[:parents]
    worst = [w for w in raw[parents:] if w < 0]
    mu_eff, mu_eff_worst = _effective(best), _effective(worst)

    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)  # eq. 57
    offset = 0.25 if newest_c_mu else 0.0
    c_mu = min(1 - c_1 - 1e-8, 2 * (offset + mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))  # eq. 58
    worst_sum = 0.0
    if c_mu > 0:  # a single parent has c_mu = 0 in the released family
        worst_sum = min(
            1 + c_1 / c_mu,  # eq. 50
            1 + 2 * mu_eff_worst / (mu_eff + 2),  # eq. 51
            (1 - c_1 - c_mu) / (n * c_mu),  # eq. 52
        )
    scale_best, scale_worst = 1 / sum(best), worst_sum / -sum(worst)
    between = population - parents - len(worst)
    weights = [w * scale_best for w in best] + [0.0] * between + [w * scale_worst for w in worst]  # eq. 53

    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)  # eq. 55
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # eq. 56
    return Rates(tuple(weights), mu_eff, c_1, c_mu, c_sigma, _damping(n, mu_eff, c_sigma), c_c)


def _separable(n: int, parents: int, population: int) -> Rates:
    """sep-CMA-ES: no negative weights, and a rank-mu rate (n + 2) / 3 times that of a full covariance."""
    raw = [math.log(parents + 1) - math.log(i) for i in range(1, parents + 1)]
    mu_eff = _effective(raw)
    weights = [w / sum(raw) for w in raw] + [0.0] * (population - parents)
    full = 2 / mu_eff / (n + math.sqrt(2)) ** 2 + (1 - 1 / mu_eff) * min(1, (2 * mu_eff - 1) / ((n + 2) ** 2 + mu_eff))
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, (n + 2) / 3 * full)
    c_sigma = (mu_eff + 2) / (n + mu_eff + 3)
    return Rates(tuple(weights), mu_eff, c_1, c_mu, c_sigma, _damping(n, mu_eff, c_sigma), 4 / (n + 4))


def _damping(n: int, mu_eff: float, c_sigma: float) -> float:
    return 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma  # eq. 55
