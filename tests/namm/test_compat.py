"""Checkpoints of the released trainer become NAMMs; whatever else a file holds is refused and never run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from namm import NAMM
from namm.compat import main, read_released
from namm.errors import CheckpointError
from tests.namm.test_golden_policy import released_namm


def trainer_content(hidden: int = 32, prefix: str = "", later_stage: bool = False) -> dict[str, Any]:
    """What the released trainer saves, key by key; the square matrices small, for nothing reads them."""
    generator = torch.Generator().manual_seed(0)
    params = 128 * hidden + 76
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in ("g", "best_fitness", "sigma", "mu_eff"):
        state[name] = torch.tensor(1.0)
    for name in ("mean", "best_member", "sample_D", "evo_path_sigma", "evo_path_c"):
        state[name] = torch.randn(params, generator=generator)
    for name in ("C", "sample_C", "sample_B"):
        state[name] = torch.eye(8)
    state["x"] = state["y"] = torch.zeros(32, 8)
    state["weights"] = state["weights_truncated"] = torch.ones(32)
    for owner in ("", "best_") if later_stage else ("",):
        for kind in ("output", "online_new_output"):
            name = f"{owner}stored_buffers_to_save.token_embedding_0_{kind}"
            state[f"{name}_mean"] = torch.rand(1, 1, 1, 17, generator=generator)
            state[f"{name}_var"] = torch.rand(1, 1, 1, 17, generator=generator) * 1e-3
            state[f"{name}_num"] = torch.full((1, 1, 1, 17), 9)
    state = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    return {"evolution_state": state, "iter_num": 40, "best_val_loss": np.float64(1.0625)}


@pytest.mark.parametrize("hidden", [32, 16])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_becomes_the_namm_it_deploys(tmp_path: Path, hidden: int, prefix: str, zipped: bool) -> None:
    content = trainer_content(hidden, prefix, later_stage=bool(prefix))
    torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    namm = read_released(tmp_path / "ckpt.pt")
    state = {name.removeprefix(prefix): tensor for name, tensor in content["evolution_state"].items()}
    assert namm.config.hidden == hidden
    assert namm.config.interval == 512
    assert torch.equal(namm.flat, state["mean"])
    buffers = "stored_buffers_to_save.token_embedding_0_output_"
    assert torch.equal(namm.statistics_mean[0], state[f"{buffers}mean"].flatten())
    assert torch.equal(namm.statistics_deviation[0], state[f"{buffers}var"].flatten().sqrt())


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_the_numpy_scalar_is_read_whichever_numpy_wrote_it(tmp_path: Path, module: str) -> None:
    torch.save(trainer_content(), tmp_path / "own.pt")
    with zipfile.ZipFile(tmp_path / "own.pt") as own, zipfile.ZipFile(tmp_path / "ckpt.pt", "w") as other:
        for name in own.namelist():
            data = own.read(name)
            for written in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
                data = data.replace(b"c" + written + b"\n", b"c" + module.encode() + b"\n")
            other.writestr(name, data)
    assert f"c{module}\n".encode() in (tmp_path / "ckpt.pt").read_bytes()
    assert read_released(tmp_path / "ckpt.pt").flat.shape == (4172,)


def test_the_command_writes_a_folder_that_equals_the_golden_namm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameters and statistics as the golden run of the released code used them, through a file and back."""
    expected = released_namm()
    content = trainer_content()
    content["evolution_state"]["mean"] = expected.flat
    buffers = "stored_buffers_to_save.token_embedding_0_output_"
    content["evolution_state"][f"{buffers}mean"] = expected.statistics_mean.view(1, 1, 1, 17)
    content["evolution_state"][f"{buffers}var"] = expected.statistics_deviation.square().view(1, 1, 1, 17)
    torch.save(content, tmp_path / "ckpt.pt")
    assert main([str(tmp_path / "ckpt.pt"), str(tmp_path / "folder")]) == 0
    namm = NAMM.from_pretrained(tmp_path / "folder")
    assert torch.equal(namm.flat, expected.flat)
    torch.testing.assert_close(namm.statistics_deviation, expected.statistics_deviation)
    assert namm.sha256() in capsys.readouterr().out
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "folder")]) == 2
    assert "there is no file" in capsys.readouterr().err


class Malicious:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["top", "inside", "bare"])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path: Path, place: str) -> None:
    proof = tmp_path / "executed"
    evil = Malicious(f"touch {proof}")
    content = trainer_content()
    if place == "inside":
        content["evolution_state"]["mean"] = evil
    torch.save({"top": {**content, "more": evil}, "inside": content, "bare": evil}[place], tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"names (posix|nt)\.system"):
        read_released(tmp_path / "ckpt.pt")
    assert not proof.exists()


def damaged(kind: str) -> bytes:
    """Bytes of a file that is not quite a checkpoint."""
    content = trainer_content()
    state = content["evolution_state"]
    buffers = "stored_buffers_to_save.token_embedding_0_output_"
    if kind == "no_state":
        content = {"cpu_rng_state": torch.zeros(8), "iter_num": 3}
    elif kind == "weights":
        content = {"model.embed_tokens.weight": torch.zeros(2, 2)}  # type: ignore[assignment]
    elif kind == "tensor":
        content = torch.zeros(3)  # type: ignore[assignment]
    elif kind == "no_buffers":
        del state[f"{buffers}var"]
    elif kind == "no_mean":
        del state["mean"]
    elif kind == "odd_params":
        state["mean"] = torch.zeros(4171)
    elif kind == "wrong_bins":
        state[f"{buffers}mean"] = torch.zeros(1, 1, 1, 33)
    elif kind == "integers":
        state["mean"] = torch.zeros(4172, dtype=torch.long)
    elif kind == "nan":
        state["mean"][7] = torch.nan
    elif kind == "negative":
        state[f"{buffers}var"][0, 0, 0, 3] = -1.0
    elif kind == "number":
        state["mean"] = 3.0  # type: ignore[assignment]
    file = io.BytesIO()
    torch.save(content, file)
    data = file.getvalue()
    return {"truncated": data[: len(data) // 2], "text": b"weights\n" * 50, "empty": b""}.get(kind, data)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no_state", "expected the key 'evolution_state'"), ("weights", "model.embed_tokens.weight"),
        ("tensor", "found Tensor"), ("no_buffers", "froze the statistics"), ("no_mean", "lacks 'evolution_state.mean'"),
        ("odd_params", "4171 parameters fit no scorer"), ("wrong_bins", r"expected 17 floats.*33"),
        ("integers", "int64"), ("nan", "NaN"), ("negative", "negative variance"), ("number", "found float"),
        ("truncated", "copy it again"), ("text", "copy it again"), ("empty", "copy it again"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_says_what_it_is(tmp_path: Path, kind: str, told: str) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(damaged(kind))
    with pytest.raises(CheckpointError, match=told) as caught:
        read_released(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_told_apart_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="from_pretrained"):
        read_released(tmp_path)


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "namm.compat", "nothing.pt", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
