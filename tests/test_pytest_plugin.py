"""The pytest plugin, in a project of somebody else's: as a guest it costs nothing, and asked for it examines models."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRANGER = """
import sys

def test_start(request):
    assert request.config.pluginmanager.hasplugin("namm_check")
    assert not {"torch", "namm", "modalities", "transformers", "beartype"} & set(sys.modules)
"""
MINE = """
import pytest
from own import GPT, build

class Lost(GPT):
    def forward(self, ids):
        if self.memory is not None:
            self.memory.reset()
        return super().forward(ids)

@pytest.fixture(params=["own:build", build], ids=["name", "function"])
def model(request):
    return request.param

def test_mine(namm_check, model):
    verdict = namm_check(model, clauses=("keep-all equals stock",), dtype="float32")
    assert "slots per KV head" in verdict.report

def test_lost(namm_check):
    namm_check(Lost, clauses=("pieces equal one call",), name="mine")

def test_misspelt(namm_check):
    namm_check("own:buld")

def test_adapter(namm_check):
    namm_check(build(), adapter="own:build")

def test_clause(namm_clause):
    namm_clause(build)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of somebody else's, where this project is installed as pip would: with metadata of its entry points."""
    plugin = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pytest11"]
    metadata = tmp_path / "site" / "namm_plugin-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: namm-plugin\nVersion: 1.0\n")
    points = [f"{name} = {module}" for name, module in plugin.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pytest11]", *points]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "evaluations").mkdir()  # a name that others have, too
    (tmp_path / "mine" / "evaluations" / "__init__.py").touch()
    return tmp_path / "mine"


def told(project: Path, *options: str) -> str:
    """What a pytest of that project prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{project.parent / 'site'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_whoever_does_not_ask_for_it_gets_no_torch(project: Path) -> None:
    (project / "test_stranger.py").write_text(STRANGER)
    assert "1 passed" in told(project)
    hooked = told(project, "--jaxtyping-packages=namm,modalities,beartype.beartype")
    assert "1 passed" in hooked
    assert "already" not in hooked


@pytest.mark.slow
def test_whoever_asks_has_models_examined(project: Path) -> None:
    (project / "own.py").write_text((ROOT / "examples" / "own_model.py").read_text("utf-8"), "utf-8")
    (project / "test_mine.py").write_text(MINE)
    said = told(project)
    assert "3 failed, 15 passed" in said
    assert "mine: DOES NOT CONFORM (pieces equal one call)" in said
    assert "smallest found: 1 prompt of 2 tokens" in said
    assert "Did you mean 'build'" in said
    assert "subclass of modalities.Adapter" in said
    assert "Traceback" not in said
    assert "examine.py" not in said
