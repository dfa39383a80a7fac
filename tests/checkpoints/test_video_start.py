"""Where the language part starts: a word looks at squares like it, not at itself, and every square keeps its words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import modalities  # noqa: F401  (transformers must come after it)
from checkpoints.recipes.video_language import LanguageConfig, make_video_model
from checkpoints.recipes.video_start import NORM, start_near_answers
from checkpoints.recipes.video_tower import folder_for
from checkpoints.recipes.video_vocabulary import words

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    from safetensors.torch import save_file

    folder: Path = tmp_path_factory.mktemp("clip")
    folder_for(folder)
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    return make_video_model(LanguageConfig(layers=4), folder, 0)


@torch.no_grad()
def test_a_word_finds_its_squares_and_their_fits_stay(model: torch.nn.Module) -> None:
    names = list(words())
    language, projector = model.model.language_model, model.model.multi_modal_projector
    table = language.embed_tokens.weight
    shown = [("cross", "red"), ("moon", "blue"), ("ring", "white"), ("moon", "blue")]
    seen = torch.stack([4 * sum(table[names.index(word)] for word in words) for words in shown])
    probe = torch.randn(5, table.shape[1])
    before = (projector.linear_2(probe)[:, 1:] @ table[:, 1:].T).log_softmax(1)
    growth = start_near_answers(model, seen)
    after = (projector.linear_2(probe) @ table.T / growth).log_softmax(1)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    seen *= NORM / seen.norm(dim=1).mean()
    seen[:, 0] = projector.linear_2.bias[0]
    asked = table[[names.index(word) for word in ("what", "were", "the", "blue", "shapes")]]
    model.set_attn_implementation("eager")
    states = torch.cat([seen, asked])[None]
    looks = language(inputs_embeds=states, output_attentions=True, use_cache=False).attentions[0][0, 0]
    assert looks[7, [1, 3]].sum() > 0.9  # "blue" finds both moons


def test_a_start_is_a_function_of_the_aligned_model(model: torch.nn.Module) -> None:
    seen = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_near_answers(model, seen)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(first)
    start_near_answers(model, seen)
    assert all(torch.equal(once[name], tensor) for name, tensor in model.state_dict().items())
