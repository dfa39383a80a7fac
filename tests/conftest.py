"""Makes transformers importable beside a CPU-only torch before any test module imports it; one thread, as rl.py.

The models of the tests are too small to be shared between threads, and threads that wait for each other on a busy
machine make them slower by an order of magnitude.
"""

import torch

import modalities  # noqa: F401

torch.set_num_threads(1)
