"""Adapter hooks: how a kind of model is attached to a Memory, fed and read.

Importing this package first makes transformers importable beside a CPU-only torch (see ``torchvision_cure``).
"""

from modalities.huggingface.torchvision import cure_torchvision

cure_torchvision()

from modalities.base import Adapter, attach, register  # noqa: E402  (transformers must come after the cure)

__all__ = ["Adapter", "attach", "register"]
