"""The benchmark of candidate evaluations runs as its docstring says and prints ratios."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_prints_every_way_and_what_an_update_costs() -> None:
    settings = {
        "population": 4, "part": 2, "prompts": 1, "context-tokens": 96, "interval": 32, "one-by-one": 4,
        "repetitions": 1, "threads": 1,
    }  # fmt: skip
    small = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(ROOT / "benchmarks" / "candidates.py"), *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert {"one by one, float32", "2 side by side, float32", "4 side by side, bfloat16", "1", "4"} <= set(rows)
    assert float(rows["4 side by side, float32"].split("|")[3].strip().removesuffix("x")) > 1.0
