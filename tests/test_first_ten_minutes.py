"""What a newcomer runs first works as it is written: the example, and the code of its page."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("attach_example", ROOT / "examples" / "attach.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_example_answers_reports_and_draws(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new" / "kept.png"
    assert (
        example.main(["--prompt-tokens", "150", "--interval", "48", "--new-tokens", "5", "--picture", str(picture)])
        == 0
    )
    told = capsys.readouterr().out
    assert re.search(r"policy namm: kept \d+\.\d% of 154 tokens, 3 updates", told)
    assert Image.open(picture).size[0] > 500


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--policy", "h2o"], "needs a budget"),
        (["--prompt", "nowhere.txt"], "must be a text file"),
        (["--model", str(ROOT / "tests")], "Expected a causal language model"),
        (["--namm", "nowhere"], "does not exist"),
    ],
)
def test_the_example_says_what_is_wrong(
    example: ModuleType, arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main([*arguments, "--picture", str(tmp_path / "kept.png")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "kept.png").exists()


def test_the_code_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "first_ten_minutes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "first_ten_minutes.md", "exec"), names)
    assert (tmp_path / "kept.png").stat().st_size > 5000
    assert "slots per KV head" in capsys.readouterr().out
    assert 0 < names["memory"].report().kept_fraction < 1
