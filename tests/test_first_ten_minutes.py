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

pytestmark = pytest.mark.slow

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


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)


@pytest.fixture
def as_a_newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own that has what the pages name."""
    for name in ("checkpoints", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        exec(compile(block, page, "exec"), names)
    return names


def test_the_code_of_the_page_runs(as_a_newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks_of("docs/first_ten_minutes.md")) == 3
    names = run_page("docs/first_ten_minutes.md")
    assert (as_a_newcomer / "kept.png").stat().st_size > 5000
    assert "slots per KV head" in capsys.readouterr().out
    assert 0 < names["memory"].report().kept_fraction < 1


def test_the_front_page_prints_what_it_shows(as_a_newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rounding differs between machines: a slot more or less is the same answer, another number of layers is not."""
    run_page("README.md")
    told = capsys.readouterr().out.splitlines()
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = [
        line.strip() for line in readme.splitlines() if line.startswith(("    policy ", "    keys ", "    layer "))
    ]
    assert [re.sub(r"[\d.]+", "N", line) for line in told] == [re.sub(r"[\d.]+", "N", line) for line in shown]
    for line, expected in zip(told, shown, strict=True):
        numbers, wanted = ([float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)] for text in (line, expected))
        assert numbers == pytest.approx(wanted, rel=0.02, abs=2)


def test_policies_written_by_the_page_evict(as_a_newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page("docs/write_a_policy.md")
    assert names["memory"].report().policy == "value_norm"
    assert names["memory"].report().kept_fraction < 0.5
    watching = names["PeakAttention"](names["Selection"](budget=64, interval=48))
    with names["attach"](names["model"], watching) as memory:
        names["model"].generate(**names["inputs"], max_new_tokens=10, do_sample=False)
    report = memory.report()
    assert report.policy == "peak_attention"
    assert report.kept_fraction < 0.5
