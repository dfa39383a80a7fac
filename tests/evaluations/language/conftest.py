"""A tiny random Llama with the shipped tokenizer, a random NAMM, and a benchmark folder of the exact schema."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER, default_vocabulary
from evaluations.text import TextConfig
from namm import NAMM


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=default_vocabulary().size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4, eos_token_id=None, bos_token_id=641,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER_FOLDER / name, path / name)
    return path


@pytest.fixture(scope="session")
def namm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("namm")
    NAMM(flat=torch.randn(4172, generator=torch.Generator().manual_seed(4)) * 0.3).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def longbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents; the first is asked about twice, and carries what must be escaped on a page."""
    folder = tmp_path_factory.mktemp("longbench")
    (folder / "config").mkdir()
    (folder / "config" / "dataset2prompt.json").write_text(json.dumps({"qasper": "Read: {context}\nNow: {input}\n>"}))
    (folder / "config" / "dataset2maxlen.json").write_text(json.dumps({"qasper": 6}))
    harbour = " ".join(f"Ship {number} carried <b>salt</b> & </script> left." for number in range(24))
    asked = [(harbour, "What did it carry?"), (harbour, "Who saw ship 7?"), ("Nobody saw ship 9. " * 5, "Who?")]
    rows = [
        {
            **{"input": question, "context": text, "answers": ["salt"], "length": 9, "dataset": "qasper"},
            **{"language": "en", "all_classes": None, "_id": f"q{place}"},
        }
        for place, (text, question) in enumerate(asked)
    ]
    (folder / "qasper.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def config(model_folder: Path, namm_folder: Path, tmp_path: Path) -> TextConfig:
    return TextConfig(
        model=str(model_folder), namm=namm_folder, policy=("full", "namm:sequence", "window", "random"),
        tasks=("pairs",), context_tokens=(96,), intervals=(32,), prompts=3, out=tmp_path / "out", wandb="disabled",
    )  # fmt: skip
