"""CMA-ES behind ask/tell, maximising, with an exact save and resume.

One update rule serves a full, a diagonal and an isotropic covariance and the constants of the NAMM paper's code, of
Hansen's tutorial and of sep-CMA-ES (`namm.evolution.rates`). All numbers are float64 on the CPU; randomness comes from
one generator that this object owns and saves. The *mean* is what is deployed: the best single candidate is kept for
information only, because under a noisy fitness it is merely the luckiest.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from namm.errors import CheckpointError, ConfigError, NammError, UnknownNameError, did_you_mean
from namm.evolution.covariance import Covariance, CovarianceName, Diagonal, Full, Isotropic
from namm.evolution.rates import Rates, RatesName, expected_norm
from namm.evolution.search import Search, checked_fitness, checked_mean

FamilyName = Literal["auto", RatesName]


@dataclass(frozen=True)
class CMAESConfig:
    """What a CMA-ES is started with; the defaults are the released ones."""

    population: int = 32
    """Candidates per generation."""
    sigma: float = 0.065
    """Initial step size, in units of the parameters."""
    covariance: CovarianceName = "full"
    """Model of the search distribution; ``isotropic`` adapts the step size only."""
    rates: FamilyName = "auto"
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
        for field, known in (("covariance", get_args(CovarianceName)), ("rates", get_args(FamilyName))):
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
        return CMAES(mean, self, seed=seed)

    @property
    def parents(self) -> int:
        """Candidates that move the mean."""
        return int(self.population * self.elite_ratio)

    def constants(self, params: int) -> Rates:
        """Weights and learning rates of a search of so many parameters."""
        if self.rates == "auto":
            family: RatesName = "separable" if self.covariance == "diagonal" else "released"
        else:
            family = self.rates
        return Rates.of(family, params, self.parents, self.population)

    def identity(self, params: int, rates: Rates) -> Covariance:
        """A covariance of the configured shape, equal to the identity."""
        if self.covariance == "isotropic":
            return Isotropic()
        if self.covariance == "diagonal":
            return Diagonal(params, self.initial_shift)
        # the tutorial's section B.2: decompose after 1 / (10 n (c_1 + c_mu)) generations
        lazy = math.floor(1 / (10 * params * (rates.c_1 + rates.c_mu)))
        return Full(params, self.initial_shift, self.population, self.decompose_every or max(1, lazy))

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


class CMAES(Search):
    """One search: ``candidates = es.ask()``, ``es.tell(candidates, fitness)``, again and again."""

    def __init__(
        self,
        mean: Float[Tensor, " params"],
        config: CMAESConfig | None = None,
        *,
        seed: int,
        rates: Rates | None = None,
    ) -> None:
        """Starts a search.

        Args:
            mean: Where to start; copied.
            config: Population, step size, shape of the covariance; the paper's by default.
            seed: Seed of the candidates that `ask` draws.
            rates: Constants to use instead of the configured family's.

        Raises:
            ConfigError: The mean is empty or not finite, or the rates do not fit the population.
        """
        self.config = config or CMAESConfig()
        self.mean = checked_mean(mean)
        self.params = mean.numel()
        self.rates = rates or self.config.constants(self.params)
        if len(self.rates.weights) != self.config.population:
            raise ConfigError(
                f"CMA-ES rates: expected {self.config.population} weights, one a candidate, "
                f"found {len(self.rates.weights)}; build the rates for this population."
            )
        self.generation = 0
        self.sigma = float(self.config.sigma)
        self.path_sigma = torch.zeros_like(self.mean)
        self.path_c = torch.zeros_like(self.mean)
        self.best_candidate = self.mean.clone()
        self.best_fitness = -math.inf
        self.covariance = self.config.identity(self.params, self.rates)
        self._weights = torch.tensor(self.rates.weights, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)

    def ask(self) -> Float[Tensor, "population params"]:
        """Draws the candidates of the next generation."""
        self.covariance.refresh(self.generation)
        drawn = self.config.population // (2 if self.config.antithetic else 1)
        normal = torch.randn(drawn, self.params, dtype=torch.float64, generator=self._generator)
        if self.config.antithetic:
            normal = torch.stack([normal, -normal], dim=1).flatten(0, 1)
        return self.mean + self.sigma * self.covariance.colour(normal)

    def tell(self, candidates: Float[Tensor, "population params"], fitness: Float[Tensor, " population"]) -> int:
        """Learns from evaluated candidates, larger fitness being better.

        Only the order of the fitness matters; equal ones keep the order of the candidates. A candidate whose fitness
        is not finite has failed: it is ranked last and never pulls the mean towards itself.

        Args:
            candidates: One a row, from `ask` or from elsewhere.
            fitness: Fitness of each row.

        Returns:
            How many candidates failed.

        Raises:
            ConfigError: Shapes do not fit, or a candidate is not finite.
            NammError: Every candidate failed, or the step size left the range of a float; nothing was changed.
        """
        steps, failed = self._ranked_steps(candidates, fitness)
        rates, n = self.rates, self.params
        weights = self._weights.clone()
        weights[self.config.population - failed :].clamp_(max=0)
        best_weights = weights.clamp(min=0)

        self.covariance.refresh(self.generation)
        whitened = self.covariance.whiten(steps)
        step = best_weights @ steps  # eq. 41
        generation = self.generation + 1

        c_sigma, c_c = rates.c_sigma, rates.c_c
        push = math.sqrt(c_sigma * (2 - c_sigma) * rates.mu_eff)
        path_sigma = (1 - c_sigma) * self.path_sigma + push * (best_weights @ whitened)  # eq. 43
        length = float(path_sigma.norm())
        exponent = c_sigma / rates.d_sigma * (length / expected_norm(n) - 1)  # eq. 44
        if self.config.sigma_exponent_cap is not None:
            exponent = min(exponent, self.config.sigma_exponent_cap)
        log_sigma = math.log(self.sigma) + exponent
        if not abs(log_sigma) < 300:
            raise NammError(
                f"CMA-ES step size: expected a number near {self.config.sigma}, found exp({log_sigma:.0f}) at "
                f"generation {generation}; the fitness rewards ever larger or smaller steps, so bound it."
            )

        settled = length / math.sqrt(1 - (1 - c_sigma) ** (2 * generation))
        h_sigma = float(settled < (1.4 + 2 / (n + 1)) * expected_norm(n))
        path_c = (1 - c_c) * self.path_c + h_sigma * math.sqrt(c_c * (2 - c_c) * rates.mu_eff) * step  # eq. 45
        scale = torch.where(weights < 0, n / (whitened.square().sum(dim=1) + 1e-20), 1.0)  # eq. 46
        keep = 1 + rates.c_1 * (1 - h_sigma) * c_c * (2 - c_c) - rates.c_1 - rates.c_mu * float(weights.sum())
        self.covariance.update(keep, rates.c_1, path_c, rates.c_mu * weights * scale, steps)  # eq. 47

        top = int(torch.where(torch.isfinite(fitness), fitness, -math.inf).argmax())
        if float(fitness[top]) > self.best_fitness:
            self.best_fitness = float(fitness[top])
            self.best_candidate = candidates[top].to("cpu", torch.float64, copy=True)
        self.mean = self.mean + self.config.c_m * self.sigma * step  # eq. 42
        self.sigma = self.sigma * math.exp(exponent)
        self.path_sigma, self.path_c, self.generation = path_sigma, path_c, generation
        return failed

    def _ranked_steps(
        self, candidates: Float[Tensor, "population params"], fitness: Float[Tensor, " population"]
    ) -> tuple[Float[Tensor, "population params"], int]:
        """The steps that lead to the candidates, best first, and how many candidates failed."""
        expected = [self.config.population, self.params]
        fitness, alive = checked_fitness(candidates, fitness, expected, self.generation)
        failed = int((~alive).sum())
        order = torch.where(alive, fitness, -math.inf).argsort(descending=True, stable=True)
        return ((candidates.detach().to("cpu", torch.float64) - self.mean) / self.sigma)[order], failed

    @property
    def axis_ratio(self) -> float:
        """Longest over shortest axis of the search distribution; near 1 means that no shape was learned."""
        return self.covariance.axis_ratio

    def report(self) -> dict[str, float]:
        """Figures of the search to log; a path_sigma_norm of 1 leaves the step size as it is."""
        typical = expected_norm(self.params)
        return {
            "sigma": self.sigma,
            "axis_ratio": self.axis_ratio,
            "path_sigma_norm": float(self.path_sigma.norm()) / typical,
            "path_c_norm": float(self.path_c.norm()) / typical,
            "mean_norm": float(self.mean.norm()),
            "best_fitness": self.best_fitness,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything a bit-identical continuation needs, between a `tell` and the next `ask`.

        Returns:
            ``tensors``: name to tensor, untouched by later generations;
            ``scalars``: plain values for JSON, among them the configuration.
        """
        covariance = {f"covariance.{name}": value for name, value in self.covariance.tensors().items()}
        scalars = {
            "generation": self.generation,
            "sigma": self.sigma,
            "best_fitness": self.best_fitness if math.isfinite(self.best_fitness) else None,
            "refreshed_at": self.covariance.refreshed_at,
            "config": dataclasses.asdict(self.config),
            "rates": {**dataclasses.asdict(self.rates), "weights": list(self.rates.weights)},
        }
        return {"tensors": self._vectors() | covariance, "scalars": scalars}

    def _vectors(self) -> dict[str, Tensor]:
        return {
            "mean": self.mean,
            "path_sigma": self.path_sigma,
            "path_c": self.path_c,
            "best_candidate": self.best_candidate,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave.

        Args:
            state: Tensors are copied.

        Raises:
            CheckpointError: The state belongs to another configuration, or something in it is missing or misshapen.
        """
        tensors, scalars = state.get("tensors", {}), state.get("scalars", {})
        ours = dataclasses.asdict(self.config)
        theirs = {**dataclasses.asdict(CMAESConfig()), **(scalars.get("config") or {})}
        differ = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
        if differ:
            raise CheckpointError(
                f"CMA-ES state: expected the configuration of this search, found another {', '.join(differ)}; "
                "continue with the configuration that the state was saved with."
            )
        mine = {name: (vector.dtype, vector.shape) for name, vector in self._vectors().items()}
        shapes = self.covariance.shapes(int(scalars["generation"]), int(scalars["refreshed_at"]))
        wanted = mine | {f"covariance.{name}": (torch.float64, torch.Size(shape)) for name, shape in shapes.items()}
        for name, (dtype, shape) in wanted.items():
            found = tensors.get(name)
            if found is None or found.shape != shape or found.dtype != dtype:
                seen = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
                raise CheckpointError(
                    f"CMA-ES state: expected {name} as {dtype} {list(shape)}, found {seen}; "
                    "the checkpoint is damaged or of another search, use an older one."
                )
        # clones, because a view into a file's buffer may be aligned differently, which changes the last bit of sums
        copies = {name: tensors[name].clone() for name in wanted}
        self.rates = Rates(**{**scalars["rates"], "weights": tuple(scalars["rates"]["weights"])})
        self._weights = torch.tensor(self.rates.weights, dtype=torch.float64)
        self.generation, self.sigma = int(scalars["generation"]), float(scalars["sigma"])
        best = scalars["best_fitness"]
        self.best_fitness = -math.inf if best is None else float(best)
        self.mean, self.path_sigma, self.path_c = copies["mean"], copies["path_sigma"], copies["path_c"]
        self.best_candidate = copies["best_candidate"]
        self._generator.set_state(copies["generator"])
        prefix = "covariance."
        self.covariance.load(
            {name.removeprefix(prefix): value for name, value in copies.items() if name.startswith(prefix)},
            self.generation,
            int(scalars["refreshed_at"]),
        )
