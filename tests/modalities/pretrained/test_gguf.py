"""A GGUF file gives the model and the tokens that it was made of, or says why it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modalities import attach
from modalities.pretrained import load_config, load_model, load_tokenizer, locate, weight_facts
from modalities.pretrained.conversion import unpack_gguf
from modalities.pretrained.gguf_file import check_gguf
from namm.errors import CheckpointError, MissingExtraError
from namm.policies import make_policy
from tests.modalities.pretrained.tiny_gguf import TOKENS, tiny_llama, write_gguf

Q8 = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("whole") / "tiny.F32.gguf", tiny_llama())


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("quantised") / "tiny.Q8_0.gguf", tiny_llama(), Q8)


@torch.inference_mode()
def test_a_file_gives_the_model_that_it_was_made_of(whole: Path) -> None:
    """Rotary pairs are stored in another order in a GGUF file: a model read without undoing that answers nonsense."""
    ids = torch.randint(len(TOKENS), (2, 40), generator=torch.Generator().manual_seed(1))
    model = load_model(str(whole))
    assert model.dtype == torch.float32
    torch.testing.assert_close(model(ids).logits, tiny_llama()(ids).logits, atol=1e-4, rtol=1e-4)
    with attach(model, make_policy("window", budget=20, interval=16)) as memory:
        model(ids)
    assert int(memory.slots().max()) < 40


def test_a_quantised_file_is_unpacked_to_bfloat16_and_says_what_it_was(quantised: Path, tmp_path: Path) -> None:
    model = load_model(str(quantised))
    assert model.dtype == torch.bfloat16
    told = tiny_llama().state_dict()["model.layers.0.mlp.up_proj.weight"]
    rounded = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(told.numpy(), Q8), Q8))
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, rounded.bfloat16())
    facts = weight_facts(locate(str(quantised)))
    assert facts["weights_from"]["quantization"] == {"F32": 5, "Q8_0": 15}
    assert len(facts["model_sha256"]) == 64
    model.save_pretrained(tmp_path)  # plain weights: neither packed nor marked as such


def test_digits_are_cut_off_before_merges_as_smollm2_was_trained(whole: Path) -> None:
    """transformers 5.24 does not know `smollm`: it reads a paragraph break before a number as two tokens."""
    tokenizer = load_tokenizer(str(whole))
    cut = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in ("a\n\n12", "a  3", "a the")]
    assert cut == [["a", "ĊĊ", "1", "2"], ["a", "ĠĠ", "3"], ["a", "Ġthe"]]


def test_a_way_of_cutting_that_nobody_knows_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", tiny_llama(), pre="unheard-of")
    with pytest.warns(UserWarning, match="unheard-of"):
        load_tokenizer(str(path))


def test_an_unpacked_folder_says_the_same_as_its_file(quantised: Path, tmp_path: Path) -> None:
    facts = unpack_gguf(quantised, tmp_path)
    assert facts["quantization"] == {"F32": 5, "Q8_0": 15}
    assert facts["pre_tokenizer_set_by"] == "namm-suite"
    ours, theirs = load_model(str(tmp_path)).state_dict(), load_model(str(quantised)).state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    text = "a\n\n12 the  3"
    assert load_tokenizer(str(tmp_path))(text)["input_ids"] == load_tokenizer(str(quantised))(text)["input_ids"]
    assert load_config(str(tmp_path)).rope_parameters["rope_theta"] == pytest.approx(5000.0)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overwrite(place: int, content: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:place] + content + old[place + len(content) :])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "found none"),
        (lambda path: path.write_text("a letter to whoever reads this"), "begins with b'a le'"),
        (lambda path: cut(path, 20), "first 24 bytes"),
        (lambda path: cut(path, 3000), "damaged or cut off"),
        (lambda path: cut(path, path.stat().st_size // 2), "cut off"),
        (lambda path: cut(path, path.stat().st_size - 40), "cut off"),
        (overwrite(4, b"\x09\0\0\0"), "version 9"),
        (overwrite(4, b"\0\0\0\x03"), "big-endian"),
        (overwrite(16, b"\xff" * 6), "damaged"),
        (overwrite(40, b"\xff" * 400), "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_with_a_reason(
    whole: Path, tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(whole.read_bytes())
    change(path)
    with pytest.raises(CheckpointError, match=said):
        load_model(str(path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "warbler"}, "warbler"),
        ({"leave_out": "blk.1.ffn_up.weight"}, "lack 1 of the weights"),
        ({"more": lambda writer: writer.add_type("adapter")}, "'adapter'"),
        ({"more": lambda writer: writer.add_uint16("split.count", 3)}, "one of 3 parts"),
        ({"more": lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)}, "stretches .* yarn"),
        ({"more": lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))}, "rope_freqs"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path = write_gguf(tmp_path / "odd.gguf", tiny_llama(), **options)
    with pytest.raises(CheckpointError, match=said):
        load_model(str(path))


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        load_model(str(write_gguf(tmp_path / "nan.gguf", model)))


def test_without_the_extra_its_install_line_is_told(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    copy = whole.with_name("again.gguf")
    copy.write_bytes(whole.read_bytes())
    with pytest.raises(MissingExtraError, match=r"namm-suite\[gguf\]"):
        check_gguf(copy)


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers would fill them with random numbers and warn."""
    tiny_llama().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 of the weights .*layers\.1\.mlp\.up_proj"):
        load_model(str(tmp_path))
