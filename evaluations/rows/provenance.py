"""What numbers were made with: versions of the packages, and a digest of the code of this project that decides them.

The digest does not enter a cell's key: while somebody edits, most edits leave results as they are, and such a key would
measure everything again. It lies in every row instead, blind to comments, docstrings and layout, so that an experiment
can say which of the rows that it keeps were made by other code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from evaluations.rows.trials import described
from namm.errors import ConfigError
from namm.outside import outside_versions

SHARED_PACKAGES = ("torch", "transformers", "numpy")
SHARED_CODE = ("namm", "modalities")
"""What decides the results of every modality; what else does is part of its description."""


def made_with(modality: str) -> dict[str, str]:
    """What the rows of a modality are made with: versions of the packages, and the code, that decide them.

    Packages that bring policies, tasks or modalities of their own are among them.
    """
    trials = described(modality)
    return {**versions(tuple(dict.fromkeys((*SHARED_PACKAGES, *trials.packages))), trials.code), **outside_versions()}


def versions(packages: Sequence[str] = SHARED_PACKAGES, code: Sequence[str] = ()) -> dict[str, str]:
    """What numbers were made with: Python, some packages, this project, its commit and its code.

    Args:
        packages: By the names that pip knows.
        code: Modules and packages that decide the numbers, besides those that all modalities share.
    """
    found = {"python": platform.python_version(), **package_versions(packages)}
    try:
        found["namm_suite"] = importlib.metadata.version("namm-suite")
    except importlib.metadata.PackageNotFoundError:
        found["namm_suite"] = "source"
    return {**found, "git_commit": _git_commit(), "code": code_sha256(tuple(code))[:12]}


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each package, or "missing"."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def versions_differ(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How two results of `versions` differ, as "torch 2.11.0, now 2.12.0"; empty where they would decide the same.

    A commit that leaves the code that decides results as it was is no difference.
    """
    names = [name for name in now if name != "git_commit" and then.get(name, now[name]) != now[name]]
    return ", ".join(f"{name} {then[name]}, now {now[name]}" for name in names)


@cache
def code_sha256(code: tuple[str, ...] = ()) -> str:
    """The SHA-256 of the code that decides results, as hex digits: the same whatever comments and docstrings say.

    Args:
        code: Modules and packages besides the shared ones.
    """
    digest = hashlib.sha256()
    for name in (*SHARED_CODE, *code):
        for module, file in _files(name):
            digest.update(module.encode())
            digest.update(_without_comments(file.read_text("utf-8")).encode())
    return digest.hexdigest()


def _files(name: str) -> list[tuple[str, Path]]:
    """The source of a module, or of a package and all that is in it, each with a name that depends on no machine."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ConfigError(f"expected a module {name} among the code that decides results, found none; mend its name")
    if spec.submodule_search_locations is None:
        return [(name, Path(str(spec.origin)))]
    folders = [Path(place) for place in spec.submodule_search_locations]
    found = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [(f"{name}/{file.relative_to(folder).as_posix()}", file) for folder, file in found]


def _without_comments(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a lambda's is one expression
            body[:] = [part for part in body if not _is_text(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _git_commit() -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return done.stdout.strip() or "none"
