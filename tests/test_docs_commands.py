"""Every command that a page shows can be given: it parses, and the files of this repository that it names exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("checkpoints/*/*/README.md"))
)
OURS = re.compile(r"^(python (-m )?(evaluations|checkpoints|examples|benchmarks|modalities|namm)\b|namm-|torchrun )")
FOREIGN = {"namm-lm-eval"}
"""Commands whose options are lm_eval's."""


def commands(page: str) -> Iterator[str]:
    """Lines of code that begin with one of our commands, continued lines joined, comments and later columns gone."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        for part in line.strip().split(" && ") if line.startswith("    ") else ():
            if OURS.match(part):
                yield re.split(r"\s{2,}(?=[^-\s'\"])|\s#", re.sub(r"\s{2,}(?=-)", " ", part))[0].strip()


def configurations(path: Path) -> list[str]:
    """The dataclasses that a script hands to tyro."""
    return [
        ast.unparse(node.args[0])
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tyro.cli", "parsed") and node.args
    ]


def script_of(words: list[str]) -> tuple[Path, list[str]]:
    """The file that a command runs, and its arguments."""
    scripts = {name: place.partition(":")[0] for name, place in entry_points().items()}
    if words[0] == "torchrun":
        place = next(index for index, word in enumerate(words) if word.endswith(".py"))
        return ROOT / words[place], words[place + 1 :]
    if words[0] in scripts:
        return ROOT / f"{scripts[words[0]].replace('.', '/')}.py", words[1:]
    assert words[0] == "python", f"there is no command {words[0]}"
    if words[1] == "-m":
        place = ROOT / words[2].replace(".", "/")
        return (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")), words[3:]
    return ROOT / words[1], words[2:]


def entry_points() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    table = text[text.index("[project.scripts]") :].split("\n\n")[0]
    return dict(re.findall(r'^([\w-]+) = "([^"]+)"', table, flags=re.MULTILINE))


SHOWN = [(page, command) for page in PAGES for command in dict.fromkeys(commands(page))]


def test_pages_show_commands() -> None:
    assert len(SHOWN) > 40
    assert {"README.md", "docs/transfer.md", "docs/control.md"} <= {page for page, _ in SHOWN}


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=[f"{page}: {command}"[:100] for page, command in SHOWN])
def test_a_command_can_be_given(page: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] in FOREIGN:
        return
    path, arguments = script_of(words)
    assert path.is_file(), f"{page} names {path}, which is not there"
    names = configurations(path)
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)) if names else None
    assert not names or any(parses(getattr(module, name), arguments) for name in names), f"{page}: {command}"


def parses(config: Any, arguments: list[str]) -> bool:
    try:
        tyro.cli(config, args=[word.strip("[]") for word in arguments])
    except SystemExit as left:
        return left.code in (0, None)
    return True
