"""What an installed `d4rl` package, or the cache it left on the disk, offers: its table of scores and its datasets.

D4RL is not needed. Where it is installed its table wins over the one shipped here, and its own loader fetches files.
It is a package of 2022 that imports simulators which may be missing or broken, so the table is read from its `infos.py`
alone (that file imports nothing), and a package that does not import is reported and done without.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import runpy
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from namm.errors import DataError


@cache
def table() -> dict[str, Any]:
    """The names in d4rl/infos.py (`REF_MIN_SCORE`, `REF_MAX_SCORE`, `DATASET_URLS`); empty without the package."""
    spec = importlib.util.find_spec("d4rl")
    infos = Path(spec.origin).with_name("infos.py") if spec is not None and spec.origin else None
    if infos is None or not infos.is_file():
        return {}
    found = runpy.run_path(str(infos))
    return {name: found[name] for name in ("REF_MIN_SCORE", "REF_MAX_SCORE", "DATASET_URLS") if name in found}


def reference_scores(task: str) -> tuple[float, float] | None:
    """(random, expert) return of a task ("hopper-medium-v2") in the installed package's table; None if it has none."""
    lowest, highest = table().get("REF_MIN_SCORE", {}), table().get("REF_MAX_SCORE", {})
    return (float(lowest[task]), float(highest[task])) if task in lowest and task in highest else None


def cache_folder() -> Path:
    """Where D4RL keeps its files: $D4RL_DATASET_DIR, or ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets").expanduser()


@cache
def working_package() -> ModuleType | None:
    """The imported `d4rl`, or None where it is not installed; one that is installed and broken is warned about."""
    if importlib.util.find_spec("d4rl") is None:
        return None
    said = io.StringIO()
    os.environ.setdefault("D4RL_SUPPRESS_IMPORT_ERROR", "1")  # simulators are not needed to read a file
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):  # gym's notice that it is retired
            importlib.import_module("d4rl.offline_env")
            return importlib.import_module("d4rl")
    except Exception as error:  # mujoco_py raises plain Exception where its library is missing
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        warnings.warn(f"d4rl is installed but does not import ({reason}); it is done without.", stacklevel=2)
        return None


def dataset_file(task: str, file: str) -> Path | None:
    """The HDF5 file of a task: D4RL's cache first, then the loader of a working package, which downloads it.

    Args:
        task: Such as "hopper-medium-v2".
        file: Its name in the cache.

    Returns:
        The file; None if it is not cached and there is no working package.

    Raises:
        DataError: The package could not download it.
    """
    cached = cache_folder() / file
    if cached.is_file():
        return cached
    package = working_package()
    url = table().get("DATASET_URLS", {}).get(task)
    if package is None or url is None:
        return None
    try:
        return Path(package.offline_env.download_dataset_from_url(url))
    except Exception as error:  # whatever the network says
        raise DataError(
            f"expected d4rl to download {url} to {cached}, found {type(error).__name__}: {error}; put the file there"
        ) from error
