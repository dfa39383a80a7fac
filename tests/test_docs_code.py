"""Python that pages show runs as it is written, with what readers are taken to have: a model, inputs, some files."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modalities import attach
from namm import NAMM
from namm.policies import make_policy
from tests.evaluations.tasks.text.made_up_data import longbench_folder
from tests.modalities.vision.test_frames import write_video
from tests.modalities.vision.tiny_video import tiny_processor, tiny_video_model
from tests.namm.test_compat import trainer_content

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDER = "checkpoints/text/recall-llama"
PYTHON = re.compile(r"^(import |from \w+[\w.]* import )", re.MULTILINE)
ELSEWHERE = {"docs/first_ten_minutes.md", "docs/write_a_policy.md"}
"""Pages that are read from top to bottom: tests/test_first_ten_minutes.py."""
SAID = {
    '"meta-llama/Meta-Llama-3-70B-Instruct", dtype="bfloat16", device_map="auto"': f'"{FOLDER}"',
    'results = lm_eval.simple_evaluate(model=model, tasks=["lambada_openai"])': "",
    "frames=32": "frames=4",
}
"""What a page says and nobody has here: another model, a task of the Hub, a long film."""


def blocks(page: Path) -> list[str]:
    """Indented code of a page that imports something, and what goes on from it."""
    found: list[list[str]] = []
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for part in re.findall(r"(?:^(?: {4}.*)?\n)+", text, flags=re.MULTILINE):
        code = textwrap.dedent(part).strip()
        if code and part.startswith(("    ", "\n    ")):
            found.append([code])
    told = [code for [code] in found]
    return [code for code in told if PYTHON.search(code) or code.startswith(("with attach", "model = Auto"))]


PAGES = [page for page in sorted(ROOT.glob("docs/*.md")) if blocks(page)]
SHOWN = [
    (page.relative_to(ROOT).as_posix(), number, code)
    for page in PAGES
    if page.relative_to(ROOT).as_posix() not in ELSEWHERE
    for number, code in enumerate(blocks(page))
]


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names and files that pages take for granted."""
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    torch.save(trainer_content(), tmp_path / "ckpt.pt")
    longbench_folder(tmp_path / "LongBench")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    text = (ROOT / "LICENSE").read_text()[:1200]
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    ids = inputs["input_ids"]
    return {
        "attach": attach, "NAMM": NAMM, "make_policy": make_policy, "AutoModelForCausalLM": AutoModelForCausalLM,
        "model": model, "tokenizer": _without_types(tokenizer), "inputs": inputs, "text": text, "prompt": ids,
        "policy": make_policy("keydiff", budget=64, interval=64), "texts": [ids[0].tolist()] * 2,
        "namm": NAMM.from_pretrained("checkpoints/namm/text-v2"), "prefix": inputs,
        "questions": [{"input_ids": torch.cat([ids, ids[:, :5]], dim=1)}],
    }  # fmt: skip


def _without_types(tokenizer: Any) -> Any:
    """Llama takes no token types; the shipped tokenizer gives them."""
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def _seeing(names: dict[str, Any], folder: Path) -> dict[str, Any]:
    write_video(folder / "film.mp4", list(range(8)))
    return {**names, "model": tiny_video_model(), "processor": tiny_processor(), "questions": ["what is red ?"]}


def test_pages_show_code() -> None:
    assert {"docs/attaching.md", "docs/policies.md", "docs/released.md", "docs/benchmarks.md"} <= {p for p, *_ in SHOWN}
    assert len(SHOWN) >= 10


@pytest.mark.parametrize(("page", "number", "code"), SHOWN, ids=[f"{page}-{number}" for page, number, _ in SHOWN])
def test_code_runs(page: str, number: int, code: str, at_hand: dict[str, Any], tmp_path: Path) -> None:
    names = _seeing(at_hand, tmp_path) if "modalities.vision" in code else at_hand
    for said, ours in SAID.items():
        code = code.replace(said, ours)
    exec(compile(code, f"{page}, block {number}", "exec"), names)
