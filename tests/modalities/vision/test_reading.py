"""Questions about videos: equal to stock `generate()` with everything kept, and each as if it were asked alone."""

from __future__ import annotations

import pytest
import torch

from modalities import attach
from modalities.vision.features import FeatureStore
from modalities.vision.places import TEXT, places_of
from modalities.vision.prompts import Composer, ScenePrompt
from modalities.vision.reading import batches_of, read
from namm import NAMM, NAMMConfig
from namm.errors import AttachError, ConfigError, DataError, NammError
from namm.policies import make_policy
from tests.modalities.vision.tiny_video import TOKENS, noise, tiny_processor, tiny_video_model

QUESTIONS = ("what colour was the first shape ?", "is red ?", "what was the last shape ? yes")


@pytest.fixture(scope="module")
def model():
    return tiny_video_model()


@pytest.fixture(scope="module")
def composer(model):
    return Composer(model, tiny_processor())


@pytest.fixture(scope="module")
def prompts(composer) -> list[ScenePrompt]:
    scenes = [composer.scene(noise(frames, seed), seed) for seed, frames in enumerate((6, 9))]
    return [scenes[which].prompt(text, 6) for which, text in zip((0, 1, 0), QUESTIONS, strict=True)]


def generated(model, prompt: ScenePrompt) -> tuple[int, ...]:
    """By stock `generate()` on pixels."""
    ids = torch.tensor([[*prompt.context, *prompt.question]])
    pixels = prompt.scene.inputs["pixel_values_videos"]
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=pixels, max_new_tokens=6,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    return tuple(out[0, ids.shape[1] :].tolist())


def test_a_batch_of_questions_is_answered_as_stock_generate_answers_each(model, prompts) -> None:
    reading = read(model, make_policy("full"), prompts, FeatureStore(model))
    assert [answer.tokens for answer in reading.answers] == [generated(model, prompt) for prompt in prompts]
    assert [answer.context_tokens for answer in reading.answers] == [1 + TOKENS * frames for frames in (6, 9, 6)]


def test_a_prompt_is_what_the_processor_makes_of_the_whole(composer, prompts) -> None:
    """Its parts are tokenised apart, and its pictures processed once."""
    for prompt, text, (seed, frames) in zip(prompts, QUESTIONS, ((0, 6), (1, 9), (0, 6)), strict=True):
        whole = composer.processor(
            text=[f"USER: <video>\n{text} ASSISTANT:"], videos=[noise(frames, seed).frames], return_tensors="pt"
        )
        assert [*prompt.context, *prompt.question] == whole["input_ids"][0].tolist()
        assert torch.equal(prompt.scene.inputs["pixel_values_videos"], whole["pixel_values_videos"])


def test_pictures_are_encoded_once_over_policies_and_questions(model, prompts) -> None:
    store = FeatureStore(model)
    first = read(model, make_policy("full"), prompts, store)
    again = read(model, make_policy("window", interval=16, budget=12), prompts, store)
    assert (store.encoded, again.vision_seconds) == (2, 0.0)
    assert first.vision_seconds == store.seconds > 0


def test_a_store_lets_go_of_what_was_used_longest_ago(model, prompts) -> None:
    store = FeatureStore(model, most_bytes=1)
    wanted = [store.of(prompt.scene.inputs).pooled for prompt in prompts]
    assert store.encoded == 3
    assert torch.equal(wanted[0], wanted[2])
    assert not torch.equal(wanted[0][:4], wanted[1][:4])


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.slow), 5])
def test_a_policy_that_forgets_answers_in_a_batch_as_alone(model, prompts, chunk) -> None:
    policy = make_policy("h2o", interval=16, budget=10)
    store = FeatureStore(model)
    together = read(model, policy, prompts, store, chunk=chunk, traced=True)
    for prompt, answer in zip(prompts, together.answers, strict=True):
        alone = read(model, policy, [prompt], store, traced=True).answers[0]
        assert (alone.tokens, alone.kept) == (answer.tokens, answer.kept)
    assert together.costs.evicted > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("namm:released", {"eager_chunk": 32, "statistics": "sequence", "budget": 40}), ("snapkv", {"budget": 40})],
)
def test_generate_on_an_attached_model_answers_what_reading_does(model, composer, name, options) -> None:
    """Where a policy attends in chunks, too: `generate` then cuts the video."""
    namm = {"namm": NAMM(NAMMConfig())} if "namm" in name else {}
    policy = make_policy(name, interval=64, **options, **namm)
    scene = composer.scene(noise(30, 1))
    asked = [scene.prompt(text, 6) for text in QUESTIONS]
    reading = read(model, policy, asked, FeatureStore(model))
    assert reading.costs.evicted > 0
    with attach(model, policy):
        assert generated(model, asked[0]) == reading.answers[0].tokens


def test_what_is_kept_is_counted_by_frame(model, prompts) -> None:
    answer = read(model, make_policy("window", interval=16, budget=9), prompts[:1], FeatureStore(model), traced=True)
    kept, places = answer.answers[0].kept, prompts[0].scene.places
    assert kept is not None
    counts = places.kept_by_frame(kept)
    assert places.frame_tokens().tolist() == [TOKENS] * 6
    text = sum(places.text_counted(torch.tensor(head)) for layer in kept for head in layer)
    assert int(counts.sum()) + text == sum(len(head) for layer in kept for head in layer)
    assert counts[0, 0].tolist() == [0, 2, 4, 4, 4, 4]  # of 16 the last 9, and the 9 read since


def test_a_future_that_is_foreseen_has_pictures_in_it(model, prompts) -> None:
    reading = read(model, make_policy("oracle", interval=16, budget=10), prompts, FeatureStore(model))
    assert len(reading.answers) == 3
    assert reading.costs.evicted > 0
    with pytest.raises(AttachError, match="second time"):
        read(model, make_policy("kvzip", interval=16, budget=10), prompts, FeatureStore(model))


def test_questions_of_one_scene_go_together(prompts) -> None:
    assert batches_of(prompts, 2) == [[0, 2], [1]]
    assert batches_of(prompts, 1) == [[0], [2], [1]]
    assert batches_of(prompts, 8) == [[0, 2, 1]]


def test_text_between_clips_stays_in_its_place(model, composer) -> None:
    content = [noise(2, 3), "said a b", noise(2, 4)]
    scene = composer.scene(content)
    picture = scene.placeholder
    said = composer.tokenizer("said a b", add_special_tokens=False)["input_ids"]
    assert list(scene.ids[1:]) == [picture] * 2 * TOKENS + said + [picture] * 2 * TOKENS
    assert scene.places.frame.tolist() == [-1, *[0] * 4, *[1] * 4, *[TEXT] * 3, *[2] * 4, *[3] * 4]
    prompt = scene.prompt("what is red ?", 6)
    reading = read(model, make_policy("full"), [prompt], FeatureStore(model))
    assert reading.answers[0].tokens == generated(model, prompt)
    with pytest.raises(DataError, match="equally many frames"):
        composer.scene([noise(2, 3), "said a b", noise(1, 4)])


def test_an_answer_is_scored_token_by_token(model, composer) -> None:
    scene = composer.scene(noise(3, 5))
    prompt = scene.prompt("what is red ?", answer="yes red")
    answer = read(model, make_policy("full"), [prompt], FeatureStore(model)).answers[0]
    ids = torch.tensor([[*prompt.context, *prompt.question]])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values_videos=scene.inputs["pixel_values_videos"]).logits.float()
    wanted = composer.tokenizer("yes red", add_special_tokens=False)["input_ids"]
    expected = logits[0, -2:].log_softmax(-1)[torch.arange(2), torch.tensor(wanted)]
    assert answer.log_likelihoods == pytest.approx(expected.tolist(), abs=1e-4)


def test_prompts_that_would_be_misread_are_refused(model, composer) -> None:
    with pytest.raises(ConfigError, match=r"16 x 16 pixels.*24 x 24"):
        Composer(model, tiny_processor(24)).scene(noise(2, 0))
    with pytest.raises(DataError, match="text alone"):
        composer.scene(["said a b"])
    with pytest.raises(DataError, match="once for each of 1 pictures, found it 2"):
        composer.scene(noise(2, 0)).prompt("what is <video> ?")
    moved = tiny_processor()
    moved.chat_template = (
        "{% for part in messages[0]['content'] %}{% if part['type'] == 'video' %}{{ '<video>\n' }}{% endif %}"
        "{% endfor %}{% for part in messages[0]['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}"
        "{% endif %}{% endfor %}"
    )
    with pytest.raises(ConfigError, match="moved or left out"):
        Composer(model, moved).scene([noise(1, 0), "said a", noise(1, 1)])
    moved.chat_template = None
    with pytest.raises(NammError, match="template"):
        Composer(model, moved)
    own = Composer(model, moved, "USER: {content} ASSISTANT:").scene(noise(1, 0))
    assert own.ids == composer.scene(noise(1, 0)).ids


def test_a_cut_prompt_is_told_from_a_whole_one() -> None:
    with pytest.raises(DataError, match="was the prompt cut"):
        places_of([True] * 7, 4, None, (16, 16))
    with pytest.raises(DataError, match="Expected 12 tokens of 6 frames, found 8"):
        places_of([True] * 8, 6, [(3, 2, 2)], (16, 16))
    merged = places_of([False, *[True] * 8], 4, [(2, 2, 2)], (1, 1))
    assert merged.frame_tokens().tolist() == [4, 4, 4, 4]
