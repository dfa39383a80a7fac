"""The command that examines a model: what it takes, what it says, and a status and a file for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from modalities.conformance.command import main
from modalities.conformance.examine import CLAUSES, examine, subject_of
from modalities.conformance.loading import load
from modalities.conformance.tiny_models import tiny_model
from namm.errors import CheckpointError

ROOT = Path(__file__).parents[3]
MINE = '''
import torch
from examples_own import GPT, build

class Slots(GPT):
    """Counts positions from what is held."""

    def forward(self, ids):
        begun = self.memory is not None and self.memory.seen.numel() > 0
        seen = self.memory.slots().amax((1, 2))[:, None] if begun else 0
        hidden = self.tokens(ids) + self.positions(seen + torch.arange(ids.shape[1]))
        for block in self.blocks:
            hidden = block(hidden, self.memory)
        return self.head(self.norm(hidden))

def broken():
    model = Slots()
    model.load_state_dict(build().state_dict())
    return model

def raises():
    raise ValueError("no such size")

def number():
    return 3

class Draws(GPT):
    def forward(self, ids):
        return super().forward(ids) + torch.rand(1)

class Wide(GPT):
    def forward(self, ids):
        return super().forward(ids)[:, 0]
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own file of models, in the folder they are in."""
    (tmp_path / "examples_own.py").write_text((ROOT / "examples" / "own_model.py").read_text("utf-8"), "utf-8")
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine.py"


@pytest.mark.slow
def test_a_model_of_ones_own_conforms_and_its_verdict_is_for_programs_too(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["examples_own:build", "--json", str(tmp_path / "new" / "verdict.json")]) == 0
    said = capsys.readouterr().out
    assert "  -   generate() equals stock: does not apply: this model does not generate" in said
    assert "examples_own:build: CONFORMS" in said
    told = json.loads((tmp_path / "new" / "verdict.json").read_text())
    assert [clause["name"] for clause in told["clauses"]] == [clause.name for clause in CLAUSES]
    assert {clause["outcome"] for clause in told["clauses"]} == {"holds", "does not apply"}
    assert told["conforms"] is True
    assert told["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_a_clause_that_fails_names_its_smallest_counterexample(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "positions go on after forgetting"
    assert main([f"{mine}:broken", "--json", "verdict.json", "--clause", "keep-all equals stock", name]) == 1
    said = capsys.readouterr().out
    assert f"DOES NOT CONFORM ({name})" in said
    told = json.loads(Path("verdict.json").read_text())
    [failed] = [clause for clause in told["clauses"] if clause["outcome"] == "fails"]
    [prompt] = failed["counterexample"]["prompts"]
    assert len(prompt) == 21  # one update after 16 tokens, and a call that begins after it, at 20
    assert "1 prompt of 21 tokens" in said
    assert "first in row 0 at column 20" in failed["counterexample"]["detail"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:brokn", "Did you mean 'broken'"),
        ("mine.py:raises", "raises ValueError: no such size ("),
        ("mine.py:raises", "mine.py, line "),
        ("mine.py:number", "expected mine.py:number to give a torch module, found int"),
        ("mine.py:Draws", "expected a stock model that gives the same twice"),
        ("mine.py:Wide", "expected outputs [batch, tokens, width] of tokens [3, 58], found [3, 96]"),
        ("nowhere.py:build", "expected a Python file at nowhere.py, found none"),
        ("nowhere:build", "No module named 'nowhere'"),
        ("tiny:lama", "Did you mean 'llama'"),
        ("mine.py", "write mine.py:NAME"),
        ("torch.nn:Identity", "Expected a model that an adapter takes"),
    ],
)
def test_a_mistake_in_the_input_has_a_status_of_its_own_and_says_what_to_mend(
    name: str, said: str, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.endswith("NOT EXAMINED\n")


def test_so_has_what_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    tiny_model("llama").save_pretrained(damaged)
    empty.mkdir()
    (empty / "config.json").write_text((damaged / "config.json").read_text())
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    capsys.readouterr()
    for name in (tmp_path / "nothing", damaged, weights, empty):
        assert main([str(name)]) == 2
        told = capsys.readouterr().err
        assert str(name) in told
        assert told.count("\n") == 2
        assert told.endswith("NOT EXAMINED\n")


def test_a_clause_or_an_adapter_that_is_not_there_is_told_at_once(
    mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["examples_own:build", "--clause", "types are kep"]) == 2
    assert "Did you mean 'types are kept'" in capsys.readouterr().err
    assert main(["examples_own:build", "--adapter", "examples_own:GPT"]) == 2
    assert "to be a subclass of modalities.Adapter" in capsys.readouterr().err
    assert main(["examples_own:build", "--adapter", "modalities.own:OwnModels", "--clause", "types are kept"]) == 0


ENCODER = """
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=60, d_model=32, d_kv=8, num_heads=4, num_layers=1, d_ff=32))

class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = t5()
"""


def test_a_model_that_is_refused_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "encoder.py").write_text(ENCODER)
    for name, why in (("tiny:bloom", "in its own code"), (f"{tmp_path}/encoder.py:t5", "attends to an encoder too")):
        assert main([name]) == 1
        said = capsys.readouterr().out
        assert "REFUSED" in said
        assert why in said
    assert main([f"{tmp_path}/encoder.py:Holder"]) == 2
    assert "attach to its .backbone" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_model_of_pictures_and_text_is_examined(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert "ForConditionalGeneration" in type(model).__name__
    verdict = examine(subject_of(model), only=("pieces equal one call", "forgetting equals masking"))
    assert verdict.conforms, str(verdict)


def test_a_device_map_places_a_tiny_model_too() -> None:
    model = load("tiny:llama", torch.bfloat16, "cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    expected = tiny_model("llama").to(torch.bfloat16)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load("tiny:llama", device_map="nowhere")
