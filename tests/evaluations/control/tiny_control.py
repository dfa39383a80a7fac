"""Random-weight Decision Transformers and NAMMs, small enough that a whole experiment runs in a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import modalities  # noqa: F401  (before transformers)
from namm import NAMM, NAMMConfig
from namm.features import FeatureStatistics


def tiny_decision_transformer(folder: Path, env_id: str = "Hopper-v5", **facts) -> Path:
    """A checkpoint folder as checkpoints/control holds them, two layers of width 16, untrained."""
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    state, action = {
        "Hopper-v5": (11, 3),
        "Hopper-v4": (11, 3),
        "ContinuousTMaze-v0": (6, 2),
        "RememberedReacher-v0": (13, 2),
    }[env_id]
    config = DecisionTransformerConfig(
        state_dim=state,
        act_dim=action,
        hidden_size=16,
        n_layer=2,
        n_head=2,
        n_inner=32,
        max_ep_len=1000,
        vocab_size=1,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = DecisionTransformerModel(config).eval()
    with torch.no_grad():  # larger than the library's initial weights: attention must not be uniform
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    known = {"env_id": env_id, "state_mean": [0.0] * state, "state_std": [1.0] * state, "target_return": 3000.0}
    if env_id.startswith("Hopper"):
        known["reference_scores"] = [-20.272305, 3234.3]
    (folder / "control.json").write_text(json.dumps({**known, **facts}))
    return folder


def tiny_namm(folder: Path, keep: float = 0.0) -> Path:
    """A NAMM with random parameters; a larger `keep` raises all its scores, so that it keeps more."""
    generator = torch.Generator().manual_seed(0)
    namm = NAMM(NAMMConfig())
    flat = 0.3 * torch.randn(namm.flat.shape, generator=generator)
    flat[-1] += keep
    bins = namm.config.bins
    NAMM(NAMMConfig(), flat, FeatureStatistics(torch.full((1, bins), 0.1), torch.full((1, bins), 0.2))).save_pretrained(
        folder
    )
    return folder
