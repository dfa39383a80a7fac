"""Measures the trained recall model on test seeds and writes its folder: weights, tokenizer, card.json, README.md."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluations.tasks.recall.corpus import RecallVocabulary
from evaluations.tasks.recall.scoring import recall_scores, text_loss
from evaluations.tasks.recall.tasks import TASKS, TextTask, test_seed
from namm.files import file_sha256, write_atomically

LENGTHS = (256, 512, 1024, 1536, 3072)
CARD_SEED = 0
"""Index of the test seed the card's numbers are measured on."""


@dataclass(frozen=True)
class Measured:
    """Mean score of a task at one context length."""

    task: str
    context_tokens: int
    prompts: int
    score: float
    low: float
    high: float


def wilson(mean: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% Wilson interval of a mean score in [0, 1] over `count` prompts.

    The prompt is the unit, and a score between 0 and 1 varies at most as a coin does: the interval is never too narrow.
    """
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (mean * (1 - mean) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def measure(
    model: torch.nn.Module, tasks: dict[str, TextTask], prompts: int, lengths: tuple[int, ...] = LENGTHS
) -> list[Measured]:
    """Full-cache scores on test seeds, task by task and length by length."""
    rows = []
    for name, task in tasks.items():
        for context_tokens in lengths:
            score = float(recall_scores(model, task.sample(prompts, context_tokens, test_seed(CARD_SEED))).mean())
            rows.append(Measured(name, context_tokens, prompts, score, *wilson(score, prompts)))
            print(f"{name} {context_tokens}: {score:.4f}", flush=True)
    return rows


def export(model: torch.nn.Module, vocabulary: RecallVocabulary, folder: Path) -> None:
    """Writes config, fp32 weights and tokenizer in Hugging Face's format; the weights arrive last and whole."""
    from transformers import PreTrainedTokenizerFast

    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save_pretrained(fresh)
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer,
        bos_token="<begin>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=model.config.max_position_embeddings,
    ).save_pretrained(fresh)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    shutil.rmtree(fresh)


def write_card(
    model: torch.nn.Module,
    vocabulary: RecallVocabulary,
    folder: Path,
    training: dict[str, Any],
    prompts: int,
    lengths: tuple[int, ...] = LENGTHS,
) -> dict[str, Any]:
    """Measures the model and writes card.json and README.md beside its weights.

    Args:
        model: the model whose weights lie in `folder`.
        vocabulary: its vocabulary.
        folder: where `export` wrote.
        training: how it was trained: seed, steps, tokens, seconds, configuration.
        prompts: test prompts per task and length.
        lengths: context lengths, in tokens.
    """
    tasks = {name: type(task)(vocabulary=vocabulary) for name, task in TASKS.items()}
    begun = time.monotonic()
    scores = measure(model, tasks, prompts, lengths)
    split_text = {
        split: text_loss(model, vocabulary, split, rows=64, tokens=512, seed=CARD_SEED) for split in ("train", "test")
    }
    card = {
        "name": "recall-llama",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": file_sha256(folder / "model.safetensors"),
        "command": "python checkpoints/recipes/recall_llama.py",
        "training": training,
        "recall": [vars(row) for row in scores],
        "text": {name: {key: round(value, 4) for key, value in loss.items()} for name, loss in split_text.items()},
        "measuring_seconds": round(time.monotonic() - begun, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=2) + "\n")
    write_atomically(folder / "README.md", _readme(card, model))
    return card


def _readme(card: dict[str, Any], model: torch.nn.Module) -> str:
    config, training, text = model.config, card["training"], card["text"]
    prompts = card["recall"][0]["prompts"]
    stages = ", ".join(f"{name} {steps}" for name, steps in training["stage_steps"].items())
    number = "bfloat16 autocast" if training["bfloat16"] else "float32"
    return f"""---
license: apache-2.0
library_name: transformers
---
# recall-llama

A small Llama for measuring what a KV cache may forget: it answers recall questions about evidence hidden in long
filler. {card["parameters"]:,} parameters: {config.num_hidden_layers} layers, width {config.hidden_size},
{config.num_attention_heads} query heads, {config.num_key_value_heads} KV heads, {config.vocab_size} tokens,
{config.max_position_embeddings:,} positions. It loads with `AutoModelForCausalLM` and `AutoTokenizer`; it is no general
language model.

## Scores with the full cache

Percent of asked tokens predicted rightly, mean over {prompts} prompts of the test seeds
(`evaluations.tasks.recall.test_seed({CARD_SEED})`, which also read test documents only), with 95% Wilson intervals
whose unit is the prompt:

{_table(card)}

The tasks are those of `evaluations/tasks/recall/tasks.py` with their default settings. Plain text of the test
documents, in stretches of 512 tokens: {text["test"]["nats_per_token"]:.3f} nats a token,
{text["test"]["bits_per_byte"]:.3f} bits a byte (training documents: {text["train"]["nats_per_token"]:.3f} and
{text["train"]["bits_per_byte"]:.3f}).

## How it was made

    {card["command"]}

- Data: key/value streams, returning spans, chains of assignments, the four tasks at training seeds, and real text:
  pydoc's help topics and the larger modules of Python {card["versions"]["python"]}'s standard library, read at run time
  (80% of the documents train, 10% validation, 10% test, by name). Another Python version has slightly other text, hence
  other weights.
- Training: seed {training["seed"]} (stuck and dropped before it: {training["abandoned"] or "none"}),
  {training["step"]:,} steps, {training["tokens"]:,} tokens, {training["seconds"]:,.0f} s wall time on
  {training["threads"]} thread of a shared machine, {number}. Steps by stage: {stages}.
- Start: not at random. The first three layers begin near the circuit that recall rests on (look at the left neighbour,
  look where the present token came before, copy what followed: `recall_llama_model.py`); all weights are trained from
  there.
- Versions: torch {card["versions"]["torch"]}. sha256 of model.safetensors: `{card["sha256"]}`.
{"".join(f"- {note}{chr(10)}" for note in card.get("notes", []))}
The same numbers, machine-readable: `card.json`.
"""


def _table(card: dict[str, Any]) -> str:
    lengths = sorted({row["context_tokens"] for row in card["recall"]})
    cells = {(row["task"], row["context_tokens"]): row for row in card["recall"]}
    lines = [
        "| task | " + " | ".join(f"{length} tokens" for length in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for name in TASKS:
        row = (cells[name, length] for length in lengths)
        shown = (f"{100 * c['score']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in row)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
