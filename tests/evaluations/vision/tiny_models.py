"""Folders as a user has them: a small random video-language model with its processor, and a CLIP of open_clip."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from tests.modalities.vision.tiny_video import tiny_processor, tiny_video_model

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESSING = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}


def model_folder(folder: Path) -> Path:
    """With the CLIP in it, where a model of ours has its own."""
    tiny_video_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    clip_folder(folder / "clip")
    return folder


def clip_folder(folder: Path) -> Path:
    """As `local-dir:` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"model_cfg": CLIP, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(told), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**CLIP)
        for parameter in model.parameters():  # also biases, so that frames that differ are told apart
            parameter.data += 0.1 * torch.randn_like(parameter)
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    return folder
