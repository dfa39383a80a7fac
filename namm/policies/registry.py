"""Policies by name: those that come with the package, and those of other packages that name them as entry points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points

from namm.errors import ConfigError
from namm.policies.base import Policy

GROUP = "namm.policies"
"""Entry points of packages that bring policies of their own; each names a subclass of `Policy`."""


class Registry(Mapping[str, type[Policy]]):
    """Policies by their own names. Other packages' are loaded when somebody looks, for they import this one first.

    Args:
        policies: What comes with the package.
    """

    def __init__(self, policies: Iterable[type[Policy]]) -> None:
        self._known: dict[str, type[Policy]] = {}
        self._looked = False
        for policy in policies:
            self.register(policy)

    def register(self, policy: type[Policy]) -> type[Policy]:
        """Adds a policy to this process; as a decorator it gives the class back.

        Raises:
            ConfigError: It is no policy, or its name is another's.
        """
        if not (
            isinstance(policy, type) and issubclass(policy, Policy) and isinstance(getattr(policy, "name", None), str)
        ):
            raise ConfigError(f"expected a subclass of Policy with a name, found {policy!r}; mend what registers it")
        if self._known.get(policy.name, policy) is not policy:
            raise ConfigError(
                f"expected a policy with a name of its own, found {policy.name!r} of {policy.__module__}, which is "
                f"that of {self._known[policy.name].__module__}; choose another name"
            )
        self._known[policy.name] = policy
        return policy

    def __getitem__(self, name: str) -> type[Policy]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, type[Policy]]:
        if not self._looked:
            self._looked = True
            for point in entry_points(group=GROUP):
                self.register(point.load())
        return self._known
