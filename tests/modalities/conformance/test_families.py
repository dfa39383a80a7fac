"""One contract over model families: equal to stock with everything kept, exact when forgetting, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modalities.conformance.case import prompts
from modalities.conformance.examine import examine, subject_of
from modalities.conformance.survey import look_at, read_table
from modalities.conformance.tiny_models import family_names, tiny_model
from modalities.huggingface.attach import CACHE_NAMES, attach
from namm.errors import UnknownNameError
from namm.policies import make_policy

PAGE = Path(__file__).parents[3] / "docs" / "models.md"

MAIN = ("deepseek_v3", "gemma2", "gpt_oss", "jamba", "llama4_text", "opt", "qwen3")
"""One of each kind: latent attention, capped logits and windows, sinks, recurrent layers, chunks, learned positions."""

QUICK = ("gpt_oss", "jamba")

WIDESPREAD = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "opt")
"""Those that most users attach to."""


@pytest.mark.parametrize("family", QUICK)
def test_a_family_is_exact_whether_it_keeps_or_forgets(family: str) -> None:
    only = ("keep-all equals stock", "forgetting equals masking", "rows take their state along")
    verdict = examine(subject_of(tiny_model(family)), only)
    assert verdict.conforms, str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("family", MAIN)
def test_a_family_conforms(family: str) -> None:
    verdict = examine(subject_of(tiny_model(family)))
    assert verdict.conforms, str(verdict)


@pytest.mark.slow
@pytest.mark.usefixtures("_shapes_unchecked")
@pytest.mark.parametrize("family", family_names())
def test_every_family_is_exact_or_refused_and_the_page_says_which(family: str) -> None:
    """One of each kind has its shapes checked in the test above."""
    finding = look_at(family)
    assert finding.outcome != "differs", finding.how
    assert read_table(PAGE.read_text())[family] == finding.outcome


def test_the_page_lists_every_family_and_the_main_ones_fit() -> None:
    page = read_table(PAGE.read_text())
    assert set(page) == set(family_names())
    assert {page[family] for family in MAIN} == {"fits"}


@pytest.mark.parametrize("family", WIDESPREAD)
def test_half_precision_equals_stock_to_its_rounding(family: str) -> None:
    model = tiny_model(family).to(torch.bfloat16)
    subject = subject_of(model)
    ids, mask = prompts(subject)
    stock, _ = subject.run(ids, mask, None)
    with attach(model, make_policy("full", interval=16)):
        ours, _ = subject.run(ids, mask, None)
    apart = ((stock - ours).abs().amax(-1) / stock.abs().max())[mask.bool()]
    exact, _ = subject_of(tiny_model(family)).run(ids, mask, None)
    rounding = ((stock - exact).abs().amax(-1) / stock.abs().max())[mask.bool()]
    assert apart.mean() <= 1.5 * rounding.mean()


@pytest.mark.parametrize(("family", "chunk"), [*((f, 7) for f in WIDESPREAD), ("llama", 32), ("llama4_text", 7)])
def test_chunked_prefill_generates_what_stock_does(family: str, chunk: int) -> None:
    model = tiny_model(family)
    ids, mask = prompts(subject_of(model))
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    stock = model.generate(ids, **options)
    with attach(model, make_policy("full", interval=16)):
        assert torch.equal(model.generate(ids, prefill_chunk_size=chunk, **options), stock)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*WIDESPREAD, "jamba"])
def test_turns_of_a_conversation_reuse_the_cache(family: str) -> None:
    """As transformers documents it: all tokens so far, and the cache of the last output."""
    model = tiny_model(family)

    def talk() -> torch.Tensor:
        text, cache = torch.arange(10, 30)[None], {}
        for turn in range(3):
            output = model.generate(
                text,
                **cache,
                attention_mask=torch.ones_like(text),
                max_new_tokens=6,
                do_sample=False,
                pad_token_id=0,
                return_dict_in_generate=True,
            )
            name = next(name for name in CACHE_NAMES if hasattr(output, name))
            cache = {name: getattr(output, name)}
            text = torch.cat([output.sequences, torch.tensor([[30 + turn]])], 1)
        return text

    stock = talk()
    with attach(model, make_policy("full", interval=16)) as memory:
        assert torch.equal(talk(), stock)
        assert memory.seen.tolist() == [20 + 3 * 6 + 2 - 1]


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_a_model_spread_over_devices_and_disk_is_exact(family: str, tmp_path: Path) -> None:
    """As ``device_map="auto"`` spreads it: hooks move weights, inputs and masks layer by layer."""
    second = "cuda:0" if torch.cuda.is_available() else "disk"
    model = tiny_model(family)
    model.save_pretrained(tmp_path / "model")
    places = {f"model.layers.{index}": "cpu" if index % 2 else second for index in range(4)}
    places |= {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    spread = (
        type(model).from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload").eval()
    )
    assert any(parameter.device.type != "cpu" for parameter in spread.parameters())
    ids, mask = prompts(subject_of(model))
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    for policy in ({"name": "full", "interval": 16}, {"name": "h2o", "interval": 16, "budget": 10}):
        with attach(model, make_policy(**policy)):
            wanted = model.generate(ids, **options)
        with attach(spread, make_policy(**policy)) as memory:
            assert torch.equal(spread.generate(ids, **options), wanted)
            devices = {layer.cache.device.type for layer in memory.layers.values()}
            assert devices == {"cpu", "cuda" if second == "cuda:0" else "cpu"}
    assert torch.equal(spread.generate(ids, **options), model.generate(ids, **options))


def test_a_mistyped_family_of_models_is_not_answered_by_all_of_them() -> None:
    with pytest.raises(UnknownNameError) as raised:
        tiny_model("gemm2")
    assert "Did you mean 'gemma2'" in str(raised.value)
    assert "docs/models.md" in str(raised.value)
    assert len(str(raised.value)) < 200
