"""The house rules: imports run one way, the core stays light, the README's commands exist."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "namm": {"modalities", "evaluations", "checkpoints", "transformers", "gymnasium", "wandb", "minari", "open_clip"},
    "modalities": {"evaluations", "wandb"},
    "evaluations": {"checkpoints.recipes"},
}
"""What each package must not import, wherever in a file."""
WINGS = (
    {"rows"}, {"commands"}, {"tasks"}, {"analysis"}, {"experiment"}, {"report"}, {"boards"},
    {"control", "language", "vision", "evolution"}, {"hindsight", "matrix"},
)  # fmt: skip
"""The wings of evaluations/, from the ground up: each may import what stands below it and nothing beside it; the
commands, which lie in the folder itself, may import all."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imports(path)
        for forbidden in FORBIDDEN[package]
        if name == forbidden or name.startswith(forbidden + ".")
    }
    assert not found


def circles(package: str) -> list[set[str]]:
    """Modules of a package that import each other, in whatever a file says, what is for the type checker included."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }
    reached = {module: set(imports(path)) & paths.keys() - {module} for module, path in paths.items()}
    while True:
        further = {module: found.union(*(reached[other] for other in found)) for module, found in reached.items()}
        if further == reached:
            break
        reached = further
    in_circles = [frozenset(other for other in reached[module] if module in reached[other]) for module in reached]
    return [set(circle) for circle in set(in_circles) if circle]


@pytest.mark.parametrize("package", ["namm", "checkpoints"])
def test_no_modules_import_each_other(package: str) -> None:
    assert circles(package) == []


def test_the_core_loads_nothing_heavy() -> None:
    code = (
        "import sys, torch, safetensors.torch, jaxtyping, time\n"
        "began = time.process_time(); import namm, namm.policies; spent = time.process_time() - began\n"
        "heavy = {'transformers', 'gymnasium', 'wandb', 'matplotlib', 'scipy', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert spent < 1.0, spent"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_executes_what_it_loads() -> None:
    """No pickle, no torch.load, no eval anywhere in what is installed, but for one torch.load that cannot execute."""
    calls = set()
    for package in ("namm", "modalities", "evaluations", "checkpoints"):
        for path in (ROOT / package).rglob("*.py"):
            names = set(imports(path))
            tree = ast.parse(path.read_text())
            called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            bad = ({"pickle", "dill", "joblib"} & names) | ({"torch.load", "eval", "exec"} & called)
            bad |= {
                ast.unparse(node)
                for node in ast.walk(tree)
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
            }
            calls |= {f"{path.relative_to(ROOT)}: {name}" for name in bad}
    assert calls == {"namm/compat.py: torch.load"}
    loads = [
        node
        for node in ast.walk(ast.parse((ROOT / "namm" / "compat.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert [{word.arg: ast.unparse(word.value) for word in load.keywords}.get("weights_only") for load in loads] == [
        "True"
    ]


def wing_of(module: str) -> str | None:
    """The wing of a module of evaluations/, such as `evaluations.rows.file`; None for a command and what is no part."""
    parts = module.split(".")
    folder = ROOT / "evaluations" / parts[1] if parts[0] == "evaluations" and len(parts) > 1 else None
    return parts[1] if folder is not None and folder.is_dir() else None


def test_the_wings_of_the_evaluations_import_downwards_only() -> None:
    floor = {wing: number for number, wings in enumerate(WINGS) for wing in wings}
    backward = set()
    for path in (ROOT / "evaluations").rglob("*.py"):
        own = wing_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in imports(path) if own else ():
            other = wing_of(name)
            is_command = other is None and name.startswith("evaluations.")
            if is_command or (other and other != own and floor[other] >= floor[own]):
                backward.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not backward


def test_every_folder_of_the_evaluations_is_a_wing() -> None:
    folders = {path.name for path in (ROOT / "evaluations").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set.union(*WINGS)


def test_nothing_in_the_evaluations_hides_a_module_that_is_not_ours() -> None:
    """`python evaluations/rl.py` puts its folder first on the path: a `datasets` there would be everybody's."""
    ours = {"namm", "modalities", "evaluations", "checkpoints"}
    entries = [path for path in (ROOT / "evaluations").iterdir() if path.suffix == ".py" or path.is_dir()]
    found = {path.stem for path in entries} - {"__init__", "__pycache__"}
    assert "rows" in found
    installed = set(importlib.metadata.packages_distributions()) - ours
    required = importlib.metadata.requires("namm-suite") or ()
    named = {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for line in required}
    assert not found & (set(sys.stdlib_module_names) | installed | named | ours)


@pytest.mark.parametrize("script", ["rl", "text", "video", "transfer", "evolve"])
def test_every_command_explains_itself(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module(f"evaluations.{script}").main(["--help"]) == 0
    assert f"namm-{script}" in capsys.readouterr().out
