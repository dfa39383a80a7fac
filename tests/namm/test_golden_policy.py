"""Features, scores and survivors equal those of the released code (tests/golden/policy.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from namm import NAMM
from namm.features import FeatureStatistics, z_score
from namm.policies import TokenView, make_policy
from namm.policies.namm import NAMMPolicy

GOLDEN = Path(__file__).parents[1] / "golden" / "policy.npz"
HEADS, GROUP, CHUNK, CHUNKS, UPDATES = 2, 2, 128, 4, 3


def released_namm() -> NAMM:
    """The NAMM of the golden run, from its seeds."""
    flat = np.float32(np.random.RandomState(7).randn(4172)) * np.float32(0.15)
    mean = np.random.RandomState(8).rand(17) * 0.01
    variance = np.random.RandomState(9).rand(17) * 1e-4 + 1e-6
    statistics = FeatureStatistics(
        torch.tensor(mean, dtype=torch.float32)[None], torch.tensor(variance, dtype=torch.float32).sqrt()[None]
    )
    return NAMM(flat=torch.tensor(flat), statistics=statistics)


def attention_of_interval(update: int, cached: int, round_to_bf16: bool) -> torch.Tensor:
    """Columns ``[1, heads, slots, 512]`` of four chunks, regenerated as the golden recipe says."""
    total = cached + CHUNKS * CHUNK
    rows = []
    for chunk in range(CHUNKS):
        now = cached + (chunk + 1) * CHUNK
        logits = np.random.RandomState(1000 + 10 * update + chunk).randn(HEADS * GROUP, CHUNK, now) * 2
        visible = np.arange(now)[None, :] <= (now - CHUNK + np.arange(CHUNK))[:, None]
        logits = np.where(visible[None], logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        block = torch.tensor((weights / weights.sum(-1, keepdims=True)).astype(np.float32))
        if round_to_bf16:
            block = block.bfloat16()
        rows.append(torch.nn.functional.pad(block, (0, total - now)))
    mean = torch.cat(rows, dim=1).unflatten(0, (HEADS, GROUP)).mean(1)
    return mean.float().transpose(1, 2).unsqueeze(0)


@pytest.mark.parametrize("case", ["f32", "bf16in", "cap"])
def test_three_updates_match_the_released_code(case: str) -> None:
    golden = np.load(GOLDEN)
    namm = released_namm()
    policy = make_policy("namm", namm=namm, heads="equal", budget=64 if case == "cap" else None)
    assert isinstance(policy, NAMMPolicy)
    positions = torch.zeros(1, HEADS, 0, dtype=torch.long)
    state = {name: torch.zeros(1, HEADS, 0, *shape) for name, shape in policy.state_shapes().items()}
    for update in range(UPDATES):
        new = torch.arange(update * 512, (update + 1) * 512).expand(1, HEADS, -1)
        columns = attention_of_interval(update, positions.shape[2], case == "bf16in")
        positions = torch.cat([positions, new], dim=2)
        grown = {name: torch.nn.functional.pad(t, (0, 0, 0, 512)) for name, t in state.items()}
        state = policy.observe(columns, grown)
        seen = torch.tensor([(update + 1) * 512])
        valid = torch.ones_like(positions, dtype=torch.bool)
        unread = (lambda: torch.zeros(0),) * 3
        view = TokenView(0, positions, valid, seen, torch.zeros(1, dtype=torch.long), state, {}, *unread)
        expected = {
            name: golden[f"{case}/u{update}/{name}"] for name in ("emb", "scores", "kept_positions", "ema_after")
        }

        mean, deviation = namm.statistics.of_layer(0)
        features = namm.token_features(state["spectrum"], view.age, mean, deviation)
        np.testing.assert_allclose(features[0], expected["emb"], atol=2e-5)
        scores = policy.score(view)
        np.testing.assert_allclose(scores[0], expected["scores"], atol=2e-5)

        kept = policy.selection.keep(scores, positions, valid, seen)
        index = [kept[0, head].nonzero().squeeze(1) for head in range(HEADS)]
        positions = torch.stack([positions[0, head, index[head]] for head in range(HEADS)])[None]
        np.testing.assert_array_equal(positions[0], expected["kept_positions"])
        state = {n: torch.stack([t[0, h, index[h]] for h in range(HEADS)])[None] for n, t in state.items()}
        np.testing.assert_allclose(state["spectrum"][0], expected["ema_after"], atol=2e-6)


def test_flat_vector_has_the_documented_length_and_order() -> None:
    scorer = NAMM().scorer
    assert scorer.params == 4172
    flat = torch.arange(4172.0)[None]
    parts = scorer.unpack(flat)
    assert list(parts) == [
        "qkv_weight", "qkv_bias", "out_weight", "out_bias", "score_weight", "score_bias"
    ]  # fmt: skip
    starts = {name: int(part.flatten()[0]) for name, part in parts.items()}
    assert starts == {
        "qkv_weight": 0, "qkv_bias": 2400, "out_weight": 2496, "out_bias": 4096, "score_weight": 4146,
        "score_bias": 4171,
    }  # fmt: skip
    assert parts["qkv_weight"][0, 1, 0] == 96  # matrices are [in, out]


def test_z_score_holds_the_deviation_above_its_floor() -> None:
    spectrum = torch.tensor([1.0, 2.0])
    assert torch.isfinite(z_score(spectrum, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))).all()
