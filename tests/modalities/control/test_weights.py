"""Folders as the Hub has them: made with the stock class, with all that releases and trainers leave in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modalities.control.weights import (
    CONVERT,
    hub_id,
    import_transformers,
    load_decision_transformer,
    native_window,
    weight_files,
)
from namm.errors import CheckpointError


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """What `save_pretrained` of the stock class writes: hopper's sizes, two layers of width 16."""
    transformers = import_transformers()
    folder = tmp_path_factory.mktemp("hub") / "decision-transformer-gym-hopper-medium"
    config = transformers.DecisionTransformerConfig(
        state_dim=11, act_dim=3, hidden_size=16, n_layer=2, n_head=2, max_ep_len=1000, vocab_size=1
    )
    torch.manual_seed(0)
    model = transformers.DecisionTransformerModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(stock, tmp_path) -> Path:
    """A copy that a test may change."""
    copy = tmp_path / stock.name
    copy.mkdir()
    for file in stock.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def configure(folder: Path, drop: tuple[str, ...] = (), **changes) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in drop}))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def act(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    steps = {"states": 11, "actions": 3, "rewards": 1, "returns_to_go": 1}
    inputs = {name: torch.randn(1, 5, width, generator=generator) for name, width in steps.items()}
    with torch.no_grad():
        out = model.eval()(**inputs, timesteps=torch.arange(5)[None], attention_mask=torch.ones(1, 5))
    return out.action_preds


ODD = {
    **{"max_length": 30, "architectures": ["TrainableDT"], "torch_dtype": "float16", "transformers_version": "4.18.0"},
    **{"n_ctx": 1024, "summary_type": "cls_index", "use_cache": True, "gradient_checkpointing": True, "n_inner": None},
    **{"resid_pdrop": "0.1", "embd_pdrop": None, "scale": 1000.0, "K": 20, "_name_or_path": "x", "pruned_heads": {}},
    **{"attn_implementation": "flash_attention_2", "output_attentions": True, "bos_token_id": 50256, "no": {"a": [1]}},
}


def test_odd_fields_of_a_configuration_change_nothing(stock, folder):
    configure(folder, **ODD)
    model = load_decision_transformer(folder)
    assert torch.equal(act(model), act(import_transformers().DecisionTransformerModel.from_pretrained(stock)))
    assert native_window(folder) == 30
    assert model.config._attn_implementation != "flash_attention_2"


@pytest.mark.parametrize("drop", [("state_dim",), ("act_dim", "max_ep_len"), ("n_layer", "hidden_size", "n_positions")])
def test_sizes_that_are_left_out_are_read_off_the_tensors(stock, folder, drop):
    """The library's own defaults are a cheetah's 17 states, 4 actions and 4096 steps."""
    configure(folder, drop)
    assert torch.equal(act(load_decision_transformer(folder)), act(load_decision_transformer(stock)))


def test_the_timestep_table_is_as_long_as_it_is(folder):
    configure(folder, max_ep_len=4096)
    assert load_decision_transformer(folder).config.max_ep_len == 1000
    rewrite(folder, lambda t: {**t, "embed_timestep.weight": torch.zeros(4096, 16)})
    assert load_decision_transformer(folder).config.max_ep_len == 4096


def test_causal_masks_of_older_releases_are_left_out(stock, folder):
    masks = {f"encoder.h.{layer}.attn.bias": torch.ones(1, 1, 1024, 1024, dtype=torch.uint8).tril() for layer in (0, 1)}
    masks |= {f"encoder.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in (0, 1)}
    rewrite(folder, lambda tensors: {**tensors, **masks})
    assert torch.equal(act(load_decision_transformer(folder)), act(load_decision_transformer(stock)))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.model."])
def test_a_wrappers_prefix_is_taken_off(stock, folder, prefix):
    rewrite(folder, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    assert torch.equal(act(load_decision_transformer(folder)), act(load_decision_transformer(stock)))


def test_heads_that_do_not_act_may_be_missing_and_half_precision_is_read(stock, folder):
    keep = ("predict_state", "predict_return", "encoder.wte")
    rewrite(folder, lambda t: {n: v.to(torch.bfloat16) for n, v in t.items() if not n.startswith(keep)})
    model = load_decision_transformer(folder)
    assert next(model.parameters()).dtype == torch.float32
    torch.testing.assert_close(act(model), act(load_decision_transformer(stock)), atol=0.05, rtol=0.05)


def test_shards_are_joined(stock, folder):
    import_transformers().DecisionTransformerModel.from_pretrained(stock).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()  # of the copy
    assert len(weight_files(folder)) > 1
    assert torch.equal(act(load_decision_transformer(folder)), act(load_decision_transformer(stock)))
    weight_files(folder)[0].unlink()
    with pytest.raises(CheckpointError, match=r"missing \['model-00001"):
        load_decision_transformer(folder)


@pytest.mark.slow
def test_pickled_weights_are_never_opened_and_the_command_in_the_message_converts_them(stock, folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="which is a pickle and never opened") as caught:
        load_decision_transformer(folder)
    command = CONVERT.format(source=folder, target=f"{folder.name}-safetensors")
    assert str(caught.value).endswith(command)
    code = command.partition('"')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", f"import modalities; {code}"], cwd=tmp_path, check=True, timeout=200)
    converted = load_decision_transformer(tmp_path / f"{folder.name}-safetensors")
    assert torch.equal(act(converted), act(load_decision_transformer(stock)))


def test_a_snapshot_of_the_hub_says_its_name(tmp_path):
    folder = tmp_path / "models--edbeeching--decision-transformer-gym-hopper-medium" / "snapshots" / "0a1b"
    folder.mkdir(parents=True)
    assert hub_id(folder) == "edbeeching/decision-transformer-gym-hopper-medium"
    with pytest.raises(CheckpointError, match="from_pretrained\\('edbeeching/decision-transformer-gym-hopper-medium'"):
        weight_files(folder)


@pytest.mark.parametrize(("steps", "window"), [(20, 20), (5, 5), (None, 20)])
def test_the_native_window_is_what_the_file_says(folder, steps, window):
    configure(folder, max_length=steps)
    assert native_window(folder) == window
    configure(folder, drop=("max_length",))
    assert native_window(folder) == 20


@pytest.mark.parametrize("steps", [0, -3, "20", True, 2.5])
def test_a_window_that_is_none_is_refused(folder, steps):
    configure(folder, max_length=steps)
    with pytest.raises(CheckpointError, match="max_length"):
        native_window(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "expected a decision_transformer"),
        ({"state_dim": 17}, "belongs to another model"),
        ({"n_layer": 3}, "different models"),
        ({"n_head": 3}, "do not make one"),
        ({"hidden_size": "wide"}, r"whole number of 1 or more in hidden_size of .*config\.json, found 'wide' \(text\)"),
        ({"hidden_size": 16.0}, "in hidden_size of .* found 16"),
        ({"n_head": 0}, "in n_head of .* found 0"),
        ({"n_layer": True}, "in n_layer of .* found true"),
        ({"layer_norm_epsilon": float("nan")}, "in layer_norm_epsilon of .* found nan"),
        ({"layer_norm_epsilon": "1e-5"}, "in layer_norm_epsilon of .* found '1e-5'"),
        ({"action_tanh": 1}, "true or false in action_tanh"),
        ({"activation_function": "relo"}, "do not make one"),
    ],
)
def test_a_configuration_of_another_model_is_refused(folder, changes, said):
    configure(folder, **changes)
    with pytest.raises(CheckpointError, match=said):
        load_decision_transformer(folder)
