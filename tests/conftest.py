"""Makes transformers importable beside a CPU-only torch before any test module imports it."""

import modalities  # noqa: F401
