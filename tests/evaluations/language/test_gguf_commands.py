"""`--model FILE.gguf` in every command that takes a model: the same weights, and rows that say what they were."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from lm_eval.api.instance import Instance

from evaluations import evolve, text
from evaluations.evolution.config import EvolveConfig
from evaluations.evolution.source import Source
from evaluations.language.lm_eval_model import NammLM
from modalities.conformance.loading import load
from modalities.pretrained import load_model, load_tokenizer
from modalities.pretrained.precision import quick_dtype
from tests.modalities.pretrained.tiny_gguf import tiny_llama, write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    return str(write_gguf(path, tiny_llama(), gguf.GGMLQuantizationType.Q8_0))


def test_a_text_experiment_says_what_its_weights_were(file: str, tmp_path: Path) -> None:
    run = ["--tasks", "corpus/perplexity", "--context-tokens", "128", "--prompts", "2", "--policy", "full", "window"]
    more = ["--budget", "48", "--intervals", "32", "--wandb", "disabled", "--out", str(tmp_path), "--model", file]
    assert text.main([*run, *more]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["policy"] for row in rows] == ["full", "window"]
    for row in rows:
        assert row["identity"]["model"] == "tiny.Q8_0"
        assert f"torch.{row['identity']['dtype']}" == str(quick_dtype(torch.bfloat16, "cpu"))
        assert row["identity"]["weights_from"]["quantization"] == {"F32": 5, "Q8_0": 15}
        assert len(row["identity"]["model_sha256"]) == 64


@torch.inference_mode()
def test_lm_eval_scores_with_the_files_own_tokens(file: str) -> None:
    model = NammLM(pretrained=file, policy="full", device="cpu", dtype="float32", batch_size=1)
    context, continuation = "a\n\n12 the", " the"
    ask = Instance("loglikelihood", {}, (context, continuation), 0, metadata=("made up", 0, 1))
    [(found, _)] = model.loglikelihood([ask], disable_tqdm=True)
    tokenizer = load_tokenizer(file)
    ids = tokenizer(context + continuation)["input_ids"]
    logits = load_model(file, torch.float32)(torch.tensor([ids])).logits[0].log_softmax(-1)
    asked = len(tokenizer(context)["input_ids"])
    wanted = sum(float(logits[place - 1, ids[place]]) for place in range(asked, len(ids)))
    assert found == pytest.approx(wanted, abs=1e-3)
    assert model.get_model_info()["namm"]["weights"]["weights_from"]["format"] == "GGUF"


def test_an_evolution_and_the_conformance_check_read_it(file: str, tmp_path: Path) -> None:
    config = EvolveConfig(model=file, out=tmp_path, bfloat16=True)
    source = Source.load(config, config.course())
    assert source.weights[0]["weights_from"]["format"] == "GGUF"
    evolve.check_before_ranks(config, 1)
    checked = load(file, quick_dtype(torch.bfloat16, "cpu")).state_dict()
    assert all(torch.equal(checked[name], weight) for name, weight in source.model.state_dict().items())
