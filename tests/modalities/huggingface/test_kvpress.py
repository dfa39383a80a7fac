"""kvpress and this project on the same tiny Llama at the same budget: same scores, same kept tokens, same answers.

kvpress's side is stored (tests/golden/kvpress.npz, made by make_kvpress.py beside it).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from modalities import attach
from modalities.huggingface.attach import cache_of
from namm.memory import Memory
from namm.policies import Policy, make_policy

STORED = np.load(Path(__file__).parents[2] / "golden" / "kvpress.npz")
FACTS = json.loads(str(STORED["facts"]))
PROMPT = FACTS["prompt"]
WINDOW = 8

SAME = {
    "knorm": ("l2_norm", {"protected_last": 0}),
    "keydiff": ("keydiff", {"protected_last": 0}),
    "streaming_llm": ("sink_window", {"protected_last": 0}),
    "observed_attention": ("h2o_age", {"protected_last": 0}),
    "tova": ("tova", {"protected_last": 1}),
    "snapkv": ("snapkv", {"window": WINDOW}),
    "adakv_free": ("adakv", {"window": WINDOW, "safeguard": 0.0}),
}
"""kvpress's name of a case: ours, and the options under which the two are one method."""


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """The model that kvpress was run on."""
    found = LlamaForCausalLM(LlamaConfig(**FACTS["config"])).eval()
    weights = {name: torch.from_numpy(STORED[f"weights/{name}"]) for name in found.state_dict()}
    found.load_state_dict(weights)
    return found


def recorded(policy: Policy) -> list[Tensor]:
    """What the policy scores from now on, a tensor a layer."""
    scores, original = [], policy.score

    def score(view: Any) -> Tensor:
        scores.append(original(view)[0])
        return original(view)

    policy.score = score
    return scores


@torch.no_grad()
def run(model: LlamaForCausalLM, policy: Policy, first: int, after: int) -> tuple[Tensor, Memory]:
    """Logits of the tokens fed one by one after the first call, and the memory as it was after that call."""
    tokens = torch.from_numpy(STORED["tokens"])
    with attach(model, policy) as memory:
        out = model(tokens[:, :first], use_cache=True)
        kept = torch.zeros(model.config.num_hidden_layers, model.config.num_key_value_heads, first, dtype=torch.bool)
        for layer in range(kept.shape[0]):
            for head, positions in enumerate(memory.kept_positions(layer)[0]):
                kept[layer, head, positions[positions >= 0]] = True
        logits = []
        for at in range(first, first + after):
            out = model(tokens[:, at : at + 1], past_key_values=cache_of(out), use_cache=True)
            logits.append(out.logits[0, 0])
    return torch.stack(logits), kept


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("case", sorted(SAME))
def test_one_compression_of_a_prompt_keeps_and_answers_what_kvpress_does(
    model: LlamaForCausalLM, case: str, ratio: float
) -> None:
    name, options = SAME[case]
    policy = make_policy(name, schedule="prompt", budget=int(PROMPT * (1 - ratio)), **options)
    scores = recorded(policy)
    logits, kept = run(model, policy, PROMPT, FACTS["after"])
    theirs = torch.from_numpy(STORED[f"{case}/{ratio}/scores"])
    judged = theirs < theirs.amax((1, 2), keepdim=True) if name in ("tova", "snapkv", "adakv") else theirs > -torch.inf
    if name != "sink_window":  # theirs scores 0 and 1
        torch.testing.assert_close(torch.stack(scores)[judged], theirs[judged], atol=1e-5, rtol=1e-4)
    assert torch.equal(kept, torch.from_numpy(STORED[f"{case}/{ratio}/kept"]))
    torch.testing.assert_close(logits, torch.from_numpy(STORED[f"{case}/{ratio}/logits"]), atol=2e-4, rtol=1e-3)


def test_an_interval_as_long_as_the_prompt_is_the_same_compression(model: LlamaForCausalLM) -> None:
    policy = make_policy("snapkv", interval=PROMPT, budget=PROMPT // 2, window=WINDOW)
    logits, kept = run(model, policy, PROMPT, FACTS["after"])
    assert torch.equal(kept, torch.from_numpy(STORED["snapkv/0.5/kept"]))
    torch.testing.assert_close(logits, torch.from_numpy(STORED["snapkv/0.5/logits"]), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("case", ["pyramidkv/0.5", "pyramidkv/0.75", "adakv/0.5", "adakv/0.75"])
def test_where_budgets_are_divided_otherwise_totals_agree_and_so_do_tokens_at_its_sizes(
    model: LlamaForCausalLM, case: str
) -> None:
    """Its pyramid divides the observation window's slots too; its safeguard is a floor, not a part of a mixture."""
    theirs = torch.from_numpy(STORED[f"{case}/kept"])
    sizes = tuple(tuple(layer) for layer in theirs.sum(-1).tolist())
    logits, kept = run(
        model, make_policy("snapkv", schedule="prompt", head_budgets=sizes, window=WINDOW), PROMPT, FACTS["after"]
    )
    assert torch.equal(kept, theirs)
    torch.testing.assert_close(logits, torch.from_numpy(STORED[f"{case}/logits"]), atol=2e-4, rtol=1e-3)
    name, ratio = case.split("/")
    beta = {"steepness": 2.0} if name == "pyramidkv" else {}
    budget = int(PROMPT * (1 - float(ratio)))
    _, own = run(model, make_policy(name, schedule="prompt", budget=budget, window=WINDOW, **beta), PROMPT, 1)
    assert own.sum() == theirs.sum()
    assert not torch.equal(own, theirs) or case == "adakv/0.75"  # where a mixture and a floor come to the same


@pytest.mark.parametrize("case", ["decoding_knorm/20", "decoding_keydiff/20", "decoding_tova/20"])
def test_eviction_while_decoding_is_what_its_decoding_press_does(model: LlamaForCausalLM, case: str) -> None:
    """The prompt is one interval and fits the budget; then both compress after every 16 tokens."""
    press, budget = case.removeprefix("decoding_").split("/")
    name, options = SAME[press]
    logits, _ = run(model, make_policy(name, interval=16, budget=int(budget), **options), 16, FACTS["decoded"])
    torch.testing.assert_close(logits, torch.from_numpy(STORED[f"{case}/logits"]), atol=2e-4, rtol=1e-3)
