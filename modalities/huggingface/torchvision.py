"""Lets a torchvision built for CUDA be imported beside a CPU-only torch.

On such machines torchvision's compiled operators cannot load, ``import torchvision`` fails with "operator
torchvision::nms does not exist", and with it every model class of transformers and all of open_clip. Declaring the
missing operators is enough: only calling them (which nothing here does) stays impossible.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

import torch

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a library's operators live as long as the object


def cure_torchvision(attempts: int = 8) -> list[str]:
    """Imports torchvision, declaring each operator it misses; does nothing where it loads or is not installed.

    Returns:
        Names of the operators that had to be declared.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    missing: list[str] = []
    if importlib.util.find_spec("torchvision") is None:
        return missing
    for _ in range(attempts):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            found = _MISSING.search(str(error))
            if found is None or found.group(1) in missing:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(found.group(1) + _SCHEMA)
            _declared.append(library)
            missing.append(found.group(1))
            for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
                del sys.modules[name]
        else:
            break
    return missing
