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
from modalities.language.foresight import foresee
from namm.memory import Memory
from namm.policies import Policy, make_policy

pytestmark = pytest.mark.slow


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
    "lagkv_cross": ("lagkv", {"lag": 8, "cross": True, "protected_last": 0}),
    "leverage": ("leverage", {"protected_last": 0}),
    "compactor": ("compactor", {"chunk": 28}),
    "expected_attention": ("expected_attention", {"protected_last": 0}),
    "expected_attention_mean": (
        "expected_attention",
        {"covariance": False, "future": 64, "epsilon": 0.02, "protected_last": 0},
    ),
    "adakv_free": ("adakv", {"window": WINDOW, "safeguard": 0.0}),
}
"""kvpress's name of a case: ours, and the options under which the two are one method."""


MARKED = ("tova", "snapkv", "adakv", "expected_attention", "compactor")
"""Ours, where kvpress gives the tokens that stay whatever they score its largest score, and we +inf or a protection."""


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
    judged = theirs < theirs.amax((1, 2), keepdim=True) if name in MARKED else theirs > -torch.inf
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


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_ranks_within_parts_are_its_lag_presss(model: LlamaForCausalLM, ratio: float) -> None:
    """Tokens of different parts have equal ranks; which of them goes is not defined there, and the older one here."""
    policy = make_policy("lagkv", schedule="prompt", budget=int(PROMPT * (1 - ratio)), lag=8, protected_last=0)
    scores = recorded(policy)
    _, kept = run(model, policy, PROMPT, 1)
    theirs, stays = (torch.from_numpy(STORED[f"lagkv/{ratio}/{what}"]) for what in ("scores", "kept"))
    torch.testing.assert_close(torch.stack(scores), theirs)
    assert torch.equal(kept.sum(-1), stays.sum(-1))
    last = theirs.masked_fill(~stays, torch.inf).amin(-1, keepdim=True)  # the rank at which the budget ends
    assert torch.equal(kept[theirs != last], stays[theirs != last])


@pytest.mark.parametrize("chunk", [2048, 40])
def test_a_repetition_shows_and_keeps_what_kvzips_press_does(model: LlamaForCausalLM, chunk: int) -> None:
    """In one part, and in three of which the last is short; half of the slots of all layers and heads together."""
    words = {name: FACTS[name] for name in ("request", "resume", "answer")}
    prompt = torch.from_numpy(STORED["tokens"])[0, :PROMPT].tolist()
    theirs, kept = (torch.from_numpy(STORED[f"kvzip/{chunk}/{what}"]) for what in ("scores", "kept"))
    policy = make_policy("kvzip", schedule="prompt", budget=PROMPT // 2, chunk=chunk, **words)
    ahead = foresee(model, policy, [prompt], [()])
    shown = torch.stack([ahead.foresight.maxima[layer][0, :, :PROMPT, 0] for layer in range(theirs.shape[0])])
    torch.testing.assert_close(shown, theirs, atol=1e-5, rtol=1e-4)

    sinks = torch.arange(PROMPT) < 4
    order = theirs.masked_fill(sinks, torch.inf).flatten().sort(descending=True).values
    threshold = float(order[theirs.numel() // 2 - 1 : theirs.numel() // 2 + 1].mean())
    whole = make_policy("kvzip", schedule="prompt", threshold=threshold, protected_last=0, chunk=chunk, **words)
    with attach(model, whole) as memory:
        memory.tell_foresight(ahead.foresight)
        model(torch.tensor([prompt]), use_cache=True)
        ours = torch.zeros_like(kept)
        for layer in range(kept.shape[0]):
            for head, positions in enumerate(memory.kept_positions(layer)[0]):
                ours[layer, head, positions[positions >= 0]] = True
    assert torch.equal(ours, kept)
