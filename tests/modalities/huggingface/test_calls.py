"""What a call asks that a memory would leave out in silence is refused; what it can do is exactly the stock model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PreTrainedModel, StaticCache

from modalities import attach
from modalities.conformance.tiny_models import tiny_config, tiny_model
from modalities.huggingface.attach import cache_of
from namm.errors import AttachError
from namm.memory import Memory
from namm.policies import make_policy

IDS = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(1))
PADDED = torch.ones(2, 40, dtype=torch.long)
PADDED[0, :7] = 0


def full() -> Any:
    return make_policy("full", interval=16)


def window() -> Any:
    return make_policy("window", interval=16, budget=8)


def refused(model: PreTrainedModel, said: str, call: Callable[[PreTrainedModel], object]) -> None:
    with torch.no_grad(), attach(model, full()), pytest.raises(AttachError, match=said):
        call(model)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_model("llama")


def test_attention_weights_that_nobody_makes_are_refused(llama: PreTrainedModel) -> None:
    said = "without output_attentions"
    refused(llama, said, lambda m: m(IDS, output_attentions=True))
    refused(llama, said, lambda m: m.generate(IDS, max_new_tokens=2, output_attentions=True))
    eager = tiny_model("llama")
    eager.set_attn_implementation("eager")
    eager.config.output_attentions = True
    refused(eager, said, lambda m: m(IDS))
    with torch.no_grad():
        assert len(eager(IDS).attentions) == 4


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_models_that_look_both_ways_are_refused_also_where_nothing_is_padded(family: str) -> None:
    both = tiny_model(family, use_bidirectional_attention=True)
    refused(both, "both ways", lambda m: m(IDS))
    refused(both, "both ways", lambda m: m(IDS, attention_mask=PADDED))


def test_an_encoder_and_a_prefix_of_pictures_are_refused() -> None:
    refused(tiny_model("bert", is_decoder=False), "both ways", lambda m: m(IDS))
    paligemma = PaliGemmaForConditionalGeneration(tiny_config(PaliGemmaConfig)).eval()
    refused(paligemma, "both ways", lambda m: m(input_ids=IDS))
    refused(paligemma, "both ways", lambda m: m.generate(input_ids=IDS, max_new_tokens=2))


def test_a_call_that_wants_no_cache_gets_none_and_generates_as_stock(llama: PreTrainedModel) -> None:
    """Handed back all the same, generate() fed it everything again at each step."""
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": PADDED}
    stock = llama.generate(IDS, use_cache=False, **options)
    with torch.no_grad(), attach(llama, full()) as memory:
        assert torch.equal(llama.generate(IDS, use_cache=False, **options), stock)
        assert memory.seen.tolist() == [40, 47]
        assert llama(IDS, use_cache=False).past_key_values is None
        assert len(llama(IDS, use_cache=False, return_dict=False)) == 1
        assert cache_of(llama(IDS)) is not None
    with torch.no_grad(), attach(llama, window()):
        forgetful = llama.generate(IDS, max_new_tokens=8, do_sample=False)
        assert torch.equal(llama.generate(IDS, max_new_tokens=8, do_sample=False, use_cache=False), forgetful)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_an_empty_cache_of_the_callers_goes_on_with_what_was_seen(llama: PreTrainedModel, kind: type) -> None:
    """It stayed empty, and the second call began anew without a word."""

    def talk() -> torch.Tensor:
        more = {"max_cache_len": 64} if kind is StaticCache else {}
        cache = kind(config=llama.config, **more)
        llama(IDS, past_key_values=cache)
        assert int(cache.get_seq_length()) == 40
        return llama(IDS[:, :3], past_key_values=cache).logits

    with torch.no_grad():
        stock = talk()
        with attach(llama, full()) as memory:
            torch.testing.assert_close(talk(), stock, atol=1e-4, rtol=1e-4)
            assert memory.seen.tolist() == [43, 43]


def test_turns_through_a_cache_of_the_callers_are_stocks(llama: PreTrainedModel) -> None:
    def talk() -> torch.Tensor:
        cache, text = DynamicCache(config=llama.config), IDS[:1]
        for _ in range(2):
            text = llama.generate(
                text, attention_mask=torch.ones_like(text), past_key_values=cache, max_new_tokens=5, do_sample=False
            )
            text = torch.cat([text, IDS[1:, :4]], 1)
        return text

    stock = talk()
    with attach(llama, full()):
        assert torch.equal(talk(), stock)


def test_the_cache_of_sequences_that_have_ended_is_refused(llama: PreTrainedModel) -> None:
    """Two conversations in turn, or guidance, which runs one without the prompt beside the one that is asked for."""

    def alternating(model: PreTrainedModel) -> None:
        first = cache_of(model(IDS[:1]))
        model(IDS[1:])
        model(IDS[:1, :4], past_key_values=first)

    refused(llama, "have ended", alternating)
    refused(llama, "have ended", lambda m: m.generate(IDS, max_new_tokens=4, guidance_scale=1.5))
    own = DynamicCache(config=llama.config)
    refused(llama, "have ended", lambda m: (m(IDS, past_key_values=own), m(IDS), m(IDS[:, :2], past_key_values=own)))


def test_a_cache_is_of_no_use_after_its_block(llama: PreTrainedModel) -> None:
    own = DynamicCache(config=llama.config)
    with torch.no_grad(), attach(llama, full()):
        left = cache_of(llama(IDS))
        llama(IDS, past_key_values=own)
    for cache in (left, own):
        with torch.no_grad(), pytest.raises(AttachError, match="detached"):
            llama(IDS[:, :1], past_key_values=cache)
        refused(llama, "have ended", lambda m, cache=cache: m(IDS[:, :1], past_key_values=cache))


def test_a_memory_that_was_reset_does_not_go_on(llama: PreTrainedModel) -> None:
    with torch.no_grad(), attach(llama, full()) as memory:
        cache = cache_of(llama(IDS))
        memory.reset()
        with pytest.raises(AttachError, match="it was reset"):
            llama(IDS[:, :2], past_key_values=cache)


def test_caches_that_store_in_a_way_of_their_own_are_refused(llama: PreTrainedModel) -> None:
    class Rounding(type(DynamicCache(config=llama.config).layers[0])):
        pass

    cache = DynamicCache(config=llama.config)
    cache.layers = [Rounding() for _ in cache.layers]
    refused(llama, "Rounding", lambda m: m(IDS, past_key_values=cache))
    refused(llama, "found tuple", lambda m: m(IDS, past_key_values=((IDS, IDS),)))


@pytest.mark.parametrize("columns", [30, 39, 41, 50])
def test_a_mask_of_another_width_is_refused(llama: PreTrainedModel, columns: int) -> None:
    refused(llama, "of 40 columns", lambda m: m(IDS, attention_mask=torch.ones(2, columns)))


@pytest.mark.parametrize("columns", [4, 43, 45])
def test_a_mask_of_a_later_call_covers_everything_seen(llama: PreTrainedModel, columns: int) -> None:
    def later(model: PreTrainedModel) -> None:
        model(IDS[:, :4], attention_mask=torch.ones(2, columns), past_key_values=cache_of(model(IDS)))

    refused(llama, "of 44 columns", later)


def test_padding_of_an_earlier_call_is_not_shown_by_leaving_out_the_mask(llama: PreTrainedModel) -> None:
    refused(
        llama,
        "earlier calls had padding",
        lambda m: m(IDS[:, :4], past_key_values=cache_of(m(IDS, attention_mask=PADDED))),
    )


def test_documents_packed_into_a_row_are_refused(llama: PreTrainedModel) -> None:
    positions = torch.arange(20).repeat(2)[None].expand(2, -1)
    refused(llama, "several documents", lambda m: m(IDS, position_ids=positions, use_cache=False))
    with torch.no_grad():
        stock = llama(IDS, position_ids=positions).logits  # with a cache they are positions and nothing else
        with attach(llama, full()):
            torch.testing.assert_close(llama(IDS, position_ids=positions).logits, stock, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["head_mask", "cu_seq_lens_q"])
def test_arguments_of_attention_that_a_memory_does_not_know_are_refused(llama: PreTrainedModel, name: str) -> None:
    refused(llama, name, lambda m: m(IDS, **{name: torch.ones(4, 4)}))


def test_decoding_that_takes_tokens_back_does_not_run(llama: PreTrainedModel) -> None:
    with attach(llama, full()), pytest.raises((AttachError, ValueError), match="crop"):
        llama.generate(IDS[:1], max_new_tokens=4, do_sample=False, prompt_lookup_num_tokens=3)


def test_a_hole_in_a_mask_and_padding_on_the_right_are_as_stock(llama: PreTrainedModel) -> None:
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, 10:15], mask[1, 35:] = 0, 0
    with torch.no_grad():
        stock = llama(IDS, attention_mask=mask).logits[mask.bool()]
        with attach(llama, full()) as memory:
            torch.testing.assert_close(llama(IDS, attention_mask=mask).logits[mask.bool()], stock, atol=1e-4, rtol=1e-4)
            assert isinstance(memory, Memory)
