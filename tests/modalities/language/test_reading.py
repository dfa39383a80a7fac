"""Prompts of any lengths, side by side, sharing beginnings, in chunks: always what each gives alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from modalities import attach
from modalities.language.prompts import IGNORED, Group, Prompt, batches_of, groups_of
from modalities.language.reading import read
from namm import NAMM
from namm.errors import DataError
from namm.policies import POLICIES, Policy, make_policy

VOCABULARY = 97
UNGRADED = [name for name, policy in POLICIES.items() if not policy.reads_grades]
QUICK = ("full", "window", "h2o", "snapkv", "namm")
"""One of every kind: keeps all, judges nothing, by attention, by the last queries, by a network."""
CASES = [
    *(pytest.param("llama", name, marks=() if name in QUICK else pytest.mark.slow) for name in UNGRADED),
    *(pytest.param(kind, "namm", marks=pytest.mark.slow) for kind in ("gpt2", "opt")),
]


@cache
def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCABULARY, "initializer_range": 0.5}
    if kind == "llama":
        config = LlamaConfig(
            **sizes, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    if kind == "gpt2":
        config = GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=2, n_positions=512)
        return GPT2LMHeadModel(config).eval()
    config = OPTConfig(
        **{"vocab_size": VOCABULARY, "init_std": 0.5}, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=2, word_embed_proj_dim=32, max_position_embeddings=512,
    )  # fmt: skip
    return OPTForCausalLM(config).eval()


def policy_of(name: str) -> Policy:
    options: dict = {"interval": 32, "budget": 20}
    if name == "full":
        options = {}
    elif name == "namm":
        flat = torch.randn(4172, generator=torch.Generator().manual_seed(4)) * 0.3
        options = {"interval": 32, "namm": NAMM(flat=flat), "statistics": "sequence"}
    return make_policy(name, **options)


def prompts() -> list[Prompt]:
    """Two that begin alike for 70 tokens, one that is inside another, and others of all lengths."""
    draw = torch.Generator().manual_seed(5)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=draw).tolist())

    common = ids(70)
    contexts = [common + ids(15), ids(33), common + ids(9), ids(100), common, ids(3)]
    return [Prompt(context, ids(2 + place % 3), new_tokens=4 + place) for place, context in enumerate(contexts)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_batch_that_shares_what_it_can_answers_as_stock_generate_does_one_by_one(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    if name not in QUICK:
        request.getfixturevalue("_shapes_unchecked")
    model, policy, asked = model_of(kind), policy_of(name), prompts()
    groups = groups_of(asked)
    assert sorted(len(group.members) for group in groups) == [1, 1, 1, 3]
    answers, costs = read(model, policy, asked, groups, chunk=24, traced=frozenset([0]))
    alone = batches_of(groups, asked, rows=1, batch_tokens=1, share=False)
    singly = {}
    for batch in alone:
        assert len(batch) == len(batch[0].members) == 1
        singly |= read(model, policy, asked, batch)[0]
    for place, prompt in enumerate(asked):
        assert answers[place].tokens == singly[place].tokens
        torch.testing.assert_close(answers[place].held, singly[place].held)
        if name == "random" or policy.foresees:  # generate() knows no identities, and reads nothing ahead
            continue
        with attach(model, policy):
            ids = torch.tensor([prompt.context + prompt.question])
            stock = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=prompt.new_tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert answers[place].tokens == tuple(stock[0, ids.shape[1] :].tolist())
    assert (costs.evicted > 0) == (name != "full")
    assert answers[0].kept is not None
    assert [[len(head) for head in layer] for layer in answers[0].kept] == answers[0].held.tolist()
    assert costs.decoded_tokens == sum(prompt.new_tokens for prompt in asked)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_scores_are_the_stock_models_and_change_with_what_is_evicted(kind: str) -> None:
    model = model_of(kind)
    asked = [Prompt(prompt.context, prompt.question * 8, (IGNORED, *(prompt.question * 8)[1:])) for prompt in prompts()]
    answers, _ = read(model, make_policy("full"), asked, groups_of(asked))
    window = make_policy("window", interval=32, budget=8)
    evicting, _ = read(model, window, asked, groups_of(asked))
    chunked, _ = read(model, window, asked, groups_of(asked), chunk=7)
    for place, prompt in enumerate(asked):
        ids = torch.tensor([prompt.context + prompt.question])
        stock = model(ids).logits[0, -len(prompt.question) :].log_softmax(-1)
        wanted = torch.tensor(prompt.targets[1:])
        expected = stock[1:].gather(1, wanted[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(answers[place].log_likelihoods), expected, atol=1e-4, rtol=1e-4)
        assert answers[place].hits == tuple((stock[1:].argmax(-1) == wanted).tolist())
        likelihoods = (torch.tensor(found[place].log_likelihoods) for found in (chunked, evicting))
        torch.testing.assert_close(*likelihoods, atol=1e-4, rtol=1e-4)
        seen = len(prompt.context) + len(prompt.question)
        assert evicting[place].held_after.unique().tolist() == [seen if seen < 32 else 8 + seen % 32]
    assert evicting[3].log_likelihoods != answers[3].log_likelihoods
    assert evicting[3].held.unique().tolist() == [8 + 100 % 32]


def test_an_answer_ends_where_it_is_finished_and_its_row_leaves() -> None:
    model, asked = model_of("llama"), prompts()
    whole, _ = read(model, make_policy("full"), asked, groups_of(asked))
    stop = whole[3].tokens[1]
    cut, costs = read(model, make_policy("full"), asked, groups_of(asked), finished=lambda tokens: tokens[-1] == stop)
    for place, answer in cut.items():
        expected = whole[place].tokens
        end = expected.index(stop) + 1 if stop in expected else len(expected)
        assert answer.tokens == expected[:end]
    assert costs.decoded_tokens == sum(len(answer.tokens) for answer in cut.values())


def test_batches_hold_the_longest_first_and_no_more_than_is_allowed() -> None:
    asked = [Prompt(tuple(range(place, place + 10 + place)), (1,)) for place in range(8)]
    groups = groups_of(asked)
    assert [group.members[0] for group in groups] == list(range(7, -1, -1))
    batches = batches_of(groups, asked, rows=3, batch_tokens=40)
    assert [[group.members[0] for group in batch] for batch in batches] == [[7, 6], [5, 4], [3, 2], [1, 0]]
    same = [Prompt((5,) * 20, (number,)) for number in range(5)]
    (group,) = groups_of(same)
    assert group == Group((0, 1, 2, 3, 4), 20, 0)
    parts = batches_of([group], same, rows=2, batch_tokens=1000)
    assert [batch[0] for batch in parts] == [Group((0, 1), 20, 0), Group((2, 3), 20, 0), Group((4,), 20, 0)]


def test_a_prompt_without_a_question_is_refused() -> None:
    with pytest.raises(DataError, match="at least one token"):
        Prompt((1, 2), ())
