"""Second readings: what they show, what they cost, and what a policy makes of them; thresholds for a wanted size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from modalities import attach
from modalities.language.foresight import foresee, requests
from modalities.language.prompts import IGNORED, Prompt, groups_of
from modalities.language.reading import read
from modalities.language.sizing import threshold_for
from namm.errors import AttachError, ConfigError, DataError
from namm.policies import Policy, make_policy
from tests.modalities.language.test_reading import VOCABULARY, model_of, prompts


def scored() -> list[Prompt]:
    """Prompts whose questions ask for 16 tokens each."""
    return [
        Prompt(prompt.context, prompt.question * 8, (IGNORED, *(prompt.question * 8)[1:]))
        for prompt in prompts()
        if len(prompt.context) > 32
    ]


def likelihoods(policy: Policy, asked: list[Prompt]) -> np.ndarray:
    answers, _ = read(model_of("llama"), policy, asked, groups_of(asked))
    return np.concatenate([answers[place].log_likelihoods for place in range(len(asked))])


@pytest.mark.parametrize("schedule", ["prompt", pytest.param("interval", marks=pytest.mark.slow)])
def test_the_oracle_answers_as_the_full_cache_does_from_less_than_others_need(schedule: str) -> None:
    asked = scored()
    whole = likelihoods(make_policy("full"), asked)

    def apart(name: str, budget: int) -> float:
        policy = make_policy(name, interval=16, budget=budget, schedule=schedule)
        return float(np.abs(likelihoods(policy, asked) - whole).mean())

    assert apart("oracle", 12) < min(apart(name, 12) for name in ("random", "h2o", "keydiff", "snapkv", "window"))
    assert apart("oracle", 24) < apart("oracle", 12)


def test_reading_twice_costs_a_full_cache_and_shares_nothing() -> None:
    model, asked = model_of("llama"), prompts()
    groups = groups_of(asked)
    answers, costs = read(model, make_policy("kvzip", interval=16, budget=12), asked, groups)
    _, whole = read(model, make_policy("full"), asked, groups, chunk=16)
    _, once = read(model, make_policy("keydiff", interval=16, budget=12), asked, groups, chunk=16)
    assert costs.peak_cache_bytes > whole.peak_cache_bytes > once.peak_cache_bytes
    assert all(answers[place].held.float().mean() < len(prompt.context) for place, prompt in enumerate(asked)
               if len(prompt.context) > 32)  # fmt: skip
    with pytest.raises(ConfigError, match="reads ahead"):
        foresee(model, make_policy("h2o", budget=12), [asked[0].context], [()])


def test_repetitions_in_parts_are_each_read_behind_the_context_alone() -> None:
    """Side by side with a shorter context, and alone."""
    model, contexts = model_of("llama"), [prompts()[3].context, prompts()[1].context]
    policy = make_policy("kvzip", schedule="prompt", budget=40, chunk=30, request=(3,), resume=(4,), answer=(5, 6))
    assert [(start, stop, ids[:3]) for start, stop, ids in policy.repetitions(contexts[0])] == [
        (0, 30, (3, 5, 6)), (30, 60, (4, *contexts[0][22:24])), (60, 90, (4, *contexts[0][52:54])),
        (90, 100, (4, *contexts[0][82:84])),
    ]  # fmt: skip
    together = foresee(model, policy, contexts, [(), ()], chunk=17).foresight
    for row, context in enumerate(contexts):
        alone = foresee(model, policy, [context], [()]).foresight
        for layer, found in alone.maxima.items():
            mine = found[0, :, : len(context)]
            assert (mine > 0).all()
            torch.testing.assert_close(together.maxima[layer][row, :, : len(context)], mine, atol=1e-5, rtol=1e-4)


def test_a_model_that_generates_for_itself_must_be_told_what_comes() -> None:
    model, prompt = model_of("llama"), prompts()[3]
    policy = make_policy("kvzip", schedule="prompt", budget=40)
    ids = torch.tensor([prompt.context])
    with attach(model, policy), pytest.raises(AttachError, match="second reading"):
        model(ids, use_cache=True)
    ahead = foresee(model, policy, [prompt.context], [()])
    with attach(model, policy) as memory:
        memory.tell_foresight(ahead.foresight)
        model(ids, use_cache=True)
        assert float(memory.slots().float().mean()) == 40
        with pytest.raises(AttachError, match="another text"):
            model(ids.flip(1), use_cache=True)


def test_an_answer_that_turns_out_otherwise_than_the_full_caches_is_no_mistake() -> None:
    """With four slots the oracle soon says something else; updates come while it does."""
    model = model_of("llama")
    asked = [Prompt(prompt.context, prompt.question, new_tokens=40) for prompt in prompts() if len(prompt.context) > 32]
    whole, _ = read(model, make_policy("full"), asked, groups_of(asked))
    answers, _ = read(model, make_policy("oracle", interval=16, budget=4), asked, groups_of(asked))
    assert all(len(answer.tokens) == 40 for answer in answers.values())
    assert any(answers[place].tokens != whole[place].tokens for place in answers)
    other = [question[::-1] for question in ((1, 2), (3, 4))]
    ahead = foresee(model, make_policy("oracle", interval=16, budget=4), [asked[0].context[:30]], other[:1])
    with attach(model, make_policy("oracle", interval=16, budget=4)) as memory:
        memory.tell_foresight(ahead.foresight)
        with pytest.raises(AttachError, match="another text"):  # the question is sure
            model(torch.tensor([[*asked[0].context[:30], *other[1]]]), use_cache=True)


def test_requests_are_the_papers_words_in_the_models_tokens() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "Repeat", "exactly.", "with", "previous"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    found = requests(tokenizer)
    assert (found["request"][0], found["request"][-1], found["resume"][-1]) == (1, 2, 3)
    assert make_policy("kvzip", budget=8, **found).request == found["request"]
    with pytest.raises(ConfigError, match="chat template"):
        requests(tokenizer, chat=True)
    tokenizer.chat_template = "{% for m in messages %}with {{ m['content'] }} exactly.{% endfor %} previous"
    assert requests(tokenizer, chat=True)["answer"] == (2, 4)


@pytest.mark.parametrize("name", ["keydiff", pytest.param("h2o", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wanted", [0.3, 0.6])
def test_one_threshold_keeps_the_wanted_part_over_all_heads_and_layers(name: str, wanted: float) -> None:
    draw = torch.Generator().manual_seed(8)
    texts = [torch.randint(3, VOCABULARY, (129,), generator=draw).tolist() for _ in range(3)]
    model = model_of("llama")
    found = threshold_for(model, lambda x: make_policy(name, interval=16, threshold=x), texts, wanted)
    assert found.kept_fraction == pytest.approx(wanted, abs=0.03)
    asked = [Prompt(tuple(text[:-1]), tuple(text[-1:])) for text in texts]
    answers, _ = read(model, make_policy(name, interval=16, threshold=found.threshold), asked, groups_of(asked))
    held = torch.stack([answer.held for answer in answers.values()]).float()
    assert float(held.mean()) / 128 == pytest.approx(found.kept_fraction)
    assert held.mean(0).std() > 0  # heads differ, which no budget of each lets them
    for wrong, error in (({"kept_fraction": 1.5}, ConfigError), ({"texts": [texts[0][:9]]}, DataError)):
        options = {"texts": texts, "kept_fraction": wanted, **wrong}
        with pytest.raises(error):
            threshold_for(model, lambda x: make_policy(name, interval=16, threshold=x), **options)
