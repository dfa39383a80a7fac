"""The pytest plugin: `namm_check` and `namm_clause`, fixtures that examine a model as the command `namm-check` does.

    def test_my_model(namm_check):
        namm_check(build)

Every pytest of an environment loads this module when it starts, whatever it tests, so it is a package by itself and
imports nothing of ours, nor torch, before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from modalities.conformance.examine import Verdict


def examined(
    model: Any, *, adapter: Any = None, clauses: tuple[str, ...] = (), dtype: str | None = None, name: str | None = None
) -> Verdict:
    """Examines a model, and fails the test where a clause does not hold.

    Args:
        model: A model; a function without arguments that makes one; or what `namm-check` takes (a folder, a Hub id,
            `tiny:FAMILY`, `module:function`).
        adapter: A subclass of `modalities.Adapter`, or `module:Class`; None asks those that are registered.
        clauses: Names of clauses; none stands for all.
        dtype: Of the weights, such as "bfloat16"; None leaves those of a model as they are.
        name: In messages.

    Returns:
        The verdict, with its report.
    """
    __tracebackhide__ = True
    import torch

    import modalities  # noqa: F401  (before transformers)
    from modalities.conformance.examine import subject_of, verdict_on
    from modalities.conformance.loading import load, load_adapter
    from namm.errors import NammError

    wrong, verdict = "", None
    try:
        if isinstance(model, str):
            made = load(model) if dtype is None else load(model, getattr(torch, dtype))
        else:
            made = model if isinstance(model, torch.nn.Module) else model()
            made = made if dtype is None else made.to(getattr(torch, dtype))
        asked = load_adapter(adapter) if isinstance(adapter, str) else adapter
        subject = subject_of(made, name or (model if isinstance(model, str) else None), asked)
        verdict = verdict_on(subject, clauses)
    except NammError as error:
        wrong = str(error)
    if verdict is None:  # outside of the handler, so that no traceback of ours is shown
        pytest.fail(f"not examined: {wrong}", pytrace=False)
    if not verdict.conforms:
        pytest.fail(str(verdict), pytrace=False)
    return verdict


@pytest.fixture(scope="session")
def namm_check() -> Callable[..., Verdict]:
    """A function that examines a model by the whole contract: see `examined` for its arguments."""
    return examined


@pytest.fixture
def namm_clause(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """The same by one clause; a test that asks for it runs once for every clause."""

    def one(model: Any, **options: Any) -> Verdict:
        __tracebackhide__ = True
        return examined(model, **options, clauses=(request.param,))

    return one


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a clause, where a test asks for `namm_clause`."""
    if "namm_clause" in metafunc.fixturenames:
        import modalities  # noqa: F401  (before transformers)
        from modalities.conformance.examine import NAMES

        metafunc.parametrize("namm_clause", NAMES, indirect=True)
