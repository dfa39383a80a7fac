"""Makes transformers importable beside a CPU-only torch before any test module imports it; one thread, as rl.py.

The models of the tests are too small to be shared between threads, and threads that wait for each other on a busy
machine make them slower by an order of magnitude.
"""

import gc
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import config

import modalities  # noqa: F401

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays; nothing is gained by looking through it whenever rubbish is collected."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Or what Triton counts at the end is taken for a leak."""
    gc.unfreeze()


@pytest.fixture
def _shapes_unchecked() -> Iterator[None]:
    """For long runs of code whose shapes shorter tests check: the checks would be half of their time."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
