"""The examples run as they are, and so does the code of the page about attaching."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modalities.conformance.command import main
from modalities.conformance.loading import module_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "attaching.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "kept"), [("own_model", 15.0), ("new_shape", 26.7)])
def test_a_model_of_a_kind_of_its_own_forgets(name: str, kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    module_of(ROOT / "examples" / f"{name}.py").main()
    assert f"kept {kept}% of " in capsys.readouterr().out


PLAYED = """
import gc, os, runpy, sys
import evaluations.text
gc.freeze()  # what is shared is not copied to be collected
name, *options = sys.argv[1:]
if os.fork() == 0:
    name = "task"
elif os.wait()[1]:
    sys.exit("the task failed")
sys.argv = [f"{name}.py", *options, "--out", name]
runpy.run_path(f"{sys.path[1]}/examples/{name}.py", run_name="__main__")
"""
"""Two examples, each in a process of its own whose imports are shared."""


@pytest.mark.slow
def test_a_policy_or_a_task_in_one_file_is_played_and_reported(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAYED, "policy", "--prompts", "2", "--wandb", "disabled"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    for name, shown in (("policy", "peak_attention"), ("task", "overwritten")):
        assert shown in (tmp_path / name / "report.html").read_text()
        assert shown in (tmp_path / name / "rows.jsonl").read_text()


def test_the_module_of_the_page_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == 2
    exec(compile(BLOCKS[1], "docs/attaching.md", "exec"), {"__name__": "page"})
    assert "policy tova: kept 12.0% of 200 tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text((ROOT / "examples" / "own_model.py").read_text("utf-8"), "utf-8")
    (tmp_path / "test_page.py").write_text(BLOCKS[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "namm_check", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "16 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
def test_the_commands_of_the_page_end_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    lines = [line.partition("#")[0] for line in PAGE.splitlines() if line.startswith("    namm-check ")]
    shown = [line for line in lines if "PATH_OR_NAME" not in line]
    assert len(shown) == 3
    assert [main(shlex.split(line)[1:]) for line in shown] == [0, 0, 0]
    assert (tmp_path / "verdict.json").stat().st_size > 1000
