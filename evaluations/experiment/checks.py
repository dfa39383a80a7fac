"""What every experiment asks of its options before a file is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluations.experiment.names import RELEASED, NamedPolicy
from evaluations.rows.policy_names import FULL
from namm.errors import ConfigError
from namm.policies import PRESETS
from namm.typed import option


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises ConfigError unless there are seeds, each once."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds must be different numbers of 0 or more, found {list(seeds)}.")


def check_least(config: object, least: Mapping[str, int]) -> None:
    """Raises ConfigError for an option that is smaller than it may be; one that is not given may be anything.

    Args:
        config: Has the options as attributes.
        least: The smallest value of each.
    """
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and value < smallest:
            raise ConfigError(f"{option(name)} must be {smallest} or more, found {value}.")


def check_released(policies: Sequence[NamedPolicy], schedule: str, intervals: Sequence[int], name: str) -> None:
    """Raises ConfigError where the released code's chunks do not fit the updates.

    Args:
        policies: Of the experiment.
        schedule: "interval" or "prompt".
        intervals: Between two updates.
        name: How their option is written.
    """
    chunk = PRESETS[RELEASED][1]["eager_chunk"]
    if not any(spec.name.plain == RELEASED for spec in policies):
        return
    if schedule == "prompt" or any(interval % chunk for interval in intervals):
        raise ConfigError(
            f"{RELEASED} reads in chunks of {chunk} and updates in between, found --schedule {schedule} and {name} "
            f"{' '.join(map(str, intervals))}; pass {name} 512 as released, or namm:source."
        )


def check_budget(policies: Sequence[NamedPolicy], budget: int | None, protected_last: int) -> None:
    """Raises ConfigError where a budget cannot hold what is never evicted."""
    for spec in policies:
        most = spec.protected_first + protected_last
        if budget is not None and not spec.is_reference and budget < max(1, most):
            raise ConfigError(
                f"--budget must hold what is never evicted, found {budget} where {spec.label} protects {most} "
                "tokens; raise it or protect fewer."
            )


def check_curve(policies: Sequence[NamedPolicy], curve: int) -> None:
    """Raises ConfigError for a curve without its end."""
    if curve and FULL not in [spec.label for spec in policies]:
        raise ConfigError("--curve needs full among --policy: it is where every curve ends.")
