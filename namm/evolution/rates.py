"""Configuration of CMA-ES and the constants that follow from it.

Three published families of constants share one update rule: ``released`` (the code published with the NAMM paper),
``tutorial`` (Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; equation numbers refer to it) and
``separable`` (sep-CMA-ES for a diagonal covariance, Ros and Hansen 2008, in the form the `cmaes` package gives it).
At 4172 parameters the first two need about a million generations to learn a covariance, the third about 750.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from namm.errors import ConfigError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from namm.evolution.cmaes import CMAES

CovarianceName = Literal["full", "diagonal", "isotropic"]
RatesName = Literal["auto", "released", "tutorial", "separable"]


@dataclass(frozen=True)
class CMAESConfig:
    """What a CMA-ES is started with; the defaults are the released ones."""

    population: int = 32
    """Candidates per generation."""
    sigma: float = 0.065
    """Initial step size, in units of the parameters."""
    covariance: CovarianceName = "full"
    """Model of the search distribution; ``isotropic`` adapts the step size only."""
    rates: RatesName = "auto"
    """Family of constants; ``auto`` is ``separable`` for a diagonal covariance and ``released`` otherwise."""
    elite_ratio: float = 0.5
    """Fraction of the population that moves the mean, above 0 and at most 0.5."""
    c_m: float = 1.0
    """Learning rate of the mean."""
    sigma_exponent_cap: float | None = None
    """Largest exponent of one step-size change; None for no cap (released)."""
    initial_shift: float = 1e-6
    """Added to every entry of the covariance when the first generation is drawn (released); 0 for the standard form."""
    decompose_every: int | None = None
    """Generations between eigendecompositions of a full covariance; None follows Hansen's lazy schedule."""
    antithetic: bool = False
    """Draw every second candidate opposite to the one before it (mirrored sampling); needs an even population."""

    kind: ClassVar[str] = "cmaes"

    def __post_init__(self) -> None:
        for field, known in (("covariance", get_args(CovarianceName)), ("rates", get_args(RatesName))):
            name = getattr(self, field)
            if name not in known:
                raise UnknownNameError(f"No CMA-ES {field} {name!r}. {did_you_mean(str(name), known)}")
        for field, fine, expected in (
            ("population", self.population >= 4, "at least 4"),
            ("sigma", 0 < self.sigma < math.inf, "a positive number"),
            ("elite_ratio", 0 < self.elite_ratio <= 0.5, "above 0 and at most 0.5"),
            ("elite_ratio", self.parents >= 1, f"at least 1/population = {1 / max(self.population, 1):.3g}"),
            ("c_m", 0 < self.c_m <= 1, "above 0 and at most 1"),
            ("sigma_exponent_cap", self.sigma_exponent_cap is None or self.sigma_exponent_cap > 0, "None or positive"),
            ("initial_shift", 0 <= self.initial_shift < math.inf, "0 or a small positive number"),
            ("population", self.population % 2 == 0 or not self.antithetic, "an even number, for antithetic pairs"),
            ("decompose_every", self.decompose_every is None or self.decompose_every >= 1, "None or at least 1"),
        ):
            if not fine:
                raise ConfigError(f"CMA-ES {field}: expected {expected}, found {getattr(self, field)}; change it.")
        if self.rates == "separable" and self.covariance == "full":
            raise ConfigError(
                "Rates 'separable' are (params + 2) / 3 times too fast for a full covariance; "
                "use covariance='diagonal', or rates='released' or 'tutorial'."
            )

    def make(self, mean: Float[Tensor, " params"], seed: int) -> CMAES:
        """Starts the search at a mean."""
        from namm.evolution.cmaes import CMAES  # it reads this module

        return CMAES(mean, self, seed=seed)

    @property
    def parents(self) -> int:
        """Candidates that move the mean."""
        return int(self.population * self.elite_ratio)

    @staticmethod
    def preset(name: str, **changes: Any) -> CMAESConfig:
        """A named configuration, with some fields changed.

        Args:
            name: A key of `PRESETS`.
            **changes: Fields that replace the preset's.

        Raises:
            UnknownNameError: There is no such preset.
        """
        if name not in PRESETS:
            raise UnknownNameError(f"No CMA-ES preset {name!r}. {did_you_mean(name, PRESETS)}")
        return replace(PRESETS[name], **changes)


PRESETS: dict[str, CMAESConfig] = {
    "paper": CMAESConfig(),
    "tutorial": CMAESConfig(rates="tutorial", sigma_exponent_cap=1.0, initial_shift=0.0),
    "separable": CMAESConfig(covariance="diagonal", sigma_exponent_cap=1.0, initial_shift=0.0),
    "isotropic": CMAESConfig(covariance="isotropic", sigma_exponent_cap=1.0, initial_shift=0.0),
}


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
    def of(config: CMAESConfig, params: int) -> Rates:
        """The constants of a configuration.

        Args:
            config: Population, elite ratio and family.
            params: Number of parameters searched.
        """
        family = config.rates
        if family == "auto":
            family = "separable" if config.covariance == "diagonal" else "released"
        if family == "separable":
            return _separable(params, config.parents, config.population)
        return _active(params, config.parents, config.population, newest_c_mu=family == "tutorial")


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
