"""Vision-language families under a memory, with pictures in their prompts: equal to stock, exact when forgetting."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from modalities import attach
from modalities.conformance.case import prompts
from modalities.conformance.examine import examine, subject_of
from modalities.conformance.pictures import FAMILIES, pictures_of
from modalities.conformance.subject import Subject
from modalities.conformance.tiny_models import tiny_model
from modalities.vision.features import FeatureStore
from modalities.vision.prompts import Composer
from modalities.vision.reading import read
from namm.errors import AttachError
from namm.policies import make_policy
from tests.modalities.vision.tiny_qwen import tiny_qwen_model, tiny_qwen_processor
from tests.modalities.vision.tiny_video import noise

REFUSED = {"gemma3": "neither causal", "paligemma": "both ways"}


def test_a_video_model_keeps_the_contract_with_a_video_in_its_prompts() -> None:
    subject = subject_of(tiny_model("llava_next_video"))
    verdict = examine(subject, only=("forgetting equals masking",))
    assert verdict.conforms, str(verdict)
    assert 4 in prompts(subject)[0]


CHECKED = ("llava_next_video", "qwen2_vl")
"""Families of each kind, whose shapes are checked too."""


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_conform_or_are_refused(family: str, request: pytest.FixtureRequest) -> None:
    if family not in CHECKED:
        request.getfixturevalue("_shapes_unchecked")
    verdict = examine(subject_of(tiny_model(family), family))
    if family in REFUSED:
        assert verdict.refused is not None
        assert REFUSED[family] in verdict.refused
    else:
        assert verdict.conforms, str(verdict)


@pytest.mark.parametrize("family", ["llava_next_video", pytest.param("qwen2_vl", marks=pytest.mark.slow)])
def test_what_is_examined_depends_on_the_pictures(family: str) -> None:
    """Without them the verdict would be one on text; each row shows its own."""
    model = tiny_model(family)
    pictures = pictures_of(model)
    assert pictures is not None
    subject: Subject = subject_of(model)
    ids, mask = prompts(subject)
    given = pictures.given(ids)
    name = next(name for name in given if name.startswith("pixel_values"))
    with torch.no_grad():
        shown = model(input_ids=ids, attention_mask=mask, **given).logits[:, -1]
        blank = model(input_ids=ids, attention_mask=mask, **{**given, name: given[name] * 0}).logits[:, -1]
    assert ((shown - blank).abs().amax(1) > 0.05).all()
    whole = torch.cat([pictures.given(ids[row : row + 1])[name] for row in range(3)])
    assert torch.equal(whole, given[name])
    assert not torch.equal(whole[: len(whole) // 3], whole[len(whole) // 3 : 2 * len(whole) // 3])


@pytest.fixture(scope="module")
def qwen() -> Any:
    return tiny_qwen_model()


def generated(model: Any, prompt: Any, **options: Any) -> list[int]:
    ids = torch.tensor([[*prompt.context, *prompt.question]])
    kinds = (ids == prompt.scene.placeholder).long() * 2
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, max_new_tokens=6, do_sample=False,
        eos_token_id=None, **prompt.scene.inputs, **options,
    )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def test_positions_in_three_dimensions_are_those_of_stock_generate(qwen: Any) -> None:
    """Of a long video, too, whose late frames have larger positions than the question behind them."""
    composer = Composer(qwen, tiny_qwen_processor())
    scenes = [composer.scene(noise(frames, seed), seed) for seed, frames in enumerate((8, 4))]
    asked = [scenes[0].prompt("what is red ?", 6), scenes[1].prompt("is the shape blue ?", 6), scenes[0].prompt("a", 6)]
    own = scenes[0].positions
    assert own is not None
    assert int(own[:, :-1].max()) > int(own[0, -1])
    assert scenes[0].places.frames_per_token == 2
    assert scenes[0].places.frame_tokens().tolist() == [4] * 8
    reading = read(qwen, make_policy("full"), asked, FeatureStore(qwen))
    assert [list(answer.tokens) for answer in reading.answers] == [generated(qwen, prompt) for prompt in asked]
    with attach(qwen, make_policy("full", interval=16)):
        assert generated(qwen, asked[0]) == list(reading.answers[0].tokens)
    pieces = read(qwen, make_policy("full"), asked, FeatureStore(qwen), chunk=5)
    assert [answer.tokens for answer in pieces.answers] == [answer.tokens for answer in reading.answers]


def turn(model: Any, ids: torch.Tensor, cache: Any, **given: Any) -> Any:
    return model(input_ids=ids, use_cache=True, **({} if cache is None else {"cache": cache}), **given)


def test_copies_of_a_cache_keep_the_positions_of_their_own_pictures(qwen: Any) -> None:
    """Stock keeps one count for all: text behind the first video would be placed behind the second."""
    composer = Composer(qwen, tiny_qwen_processor())
    prompts_ = [composer.scene(noise(frames, 3)).prompt("what is red ?") for frames in (4, 8)]
    more = torch.tensor([[10, 11, 12]])

    def context(prompt: Any) -> dict[str, Any]:
        ids = torch.tensor([[*prompt.context, *prompt.question]])
        return {"ids": ids, "mm_token_type_ids": (ids == prompt.scene.placeholder).long() * 2, **prompt.scene.inputs}

    with torch.no_grad(), attach(qwen, make_policy("window", interval=16, budget=12)):
        first = turn(qwen, cache=None, **context(prompts_[0]))
        wanted = turn(qwen, more, copy.deepcopy(first.cache)).logits
        fork = copy.deepcopy(first.cache)
        second = turn(qwen, cache=None, **context(prompts_[1]))
        assert torch.equal(turn(qwen, more, fork).logits, wanted)
        turn(qwen, more, second.cache)
        behind = torch.cat([context(prompts_[0])["ids"], torch.tensor([[10, 11, 12, 13]])], dim=1)
        late = torch.tensor([[[20]]])
        with pytest.raises(AttachError, match="read others since"):
            qwen(input_ids=behind[:, -1:], cache=fork, position_ids=late, use_cache=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava_next_video", "qwen2_vl"])
def test_in_bf16_too(family: str) -> None:
    verdict = examine(subject_of(tiny_model(family).to(torch.bfloat16)), only=("forgetting equals masking",))
    assert verdict.conforms, str(verdict)


@pytest.mark.parametrize("family", [pytest.param("llava_next_video", marks=pytest.mark.slow), "qwen2_vl"])
def test_generate_goes_on_after_several_turns_as_stock_does(family: str) -> None:
    model = tiny_model(family)
    pictures = pictures_of(model)
    assert pictures is not None
    ids, mask = prompts(subject_of(model))
    ids, mask = ids[:1, -60:], mask[:1, -60:]
    ids = pictures.placed(ids, mask)

    def talk() -> list[int]:
        said, cache = ids, None
        for _ in range(3):
            given = pictures.given(said) if cache is None else {}
            options = {} if cache is None else {"cache": cache}
            out = model.generate(
                input_ids=said, attention_mask=torch.ones_like(said), max_new_tokens=4, do_sample=False,
                return_dict_in_generate=True, pad_token_id=0, **given, **options,
            )  # fmt: skip
            cache = out.cache if hasattr(out, "cache") else out.past_key_values
            said = torch.cat([out.sequences, torch.tensor([[21, 22, 23]])], dim=1)
        return said[0].tolist()

    wanted = talk()
    with attach(model, make_policy("full", interval=16)):
        assert talk() == wanted
