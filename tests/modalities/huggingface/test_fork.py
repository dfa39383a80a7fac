"""A prefix read once, its cache copied for each question: transformers' own way of reusing a prefix."""

from __future__ import annotations

import copy

import pytest
import torch

from modalities import attach
from modalities.conformance.tiny_models import tiny_model
from modalities.huggingface.attach import cache_of
from namm.errors import AttachError
from namm.policies import make_policy
from tests.modalities.huggingface.test_attach import llama, prompts


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_next"])
@torch.no_grad()
def test_questions_after_a_forked_prefix_equal_questions_after_a_prefix_of_their_own(family: str) -> None:
    """Also for a hybrid, whose recurrent state must go its own way too, and with the trunk used in between."""
    model = tiny_model(family)
    ids = torch.randint(12, 60, (1, 90), generator=torch.Generator().manual_seed(2))
    prefix, questions = ids[:, :50], (ids[:, 50:71], ids[:, 60:90])
    with attach(model, make_policy("h2o", interval=16, budget=10)) as memory:
        trunk = cache_of(model(input_ids=prefix, use_cache=True))
        forks = [copy.deepcopy(trunk) for _ in questions]
        told = []
        for fork, question in zip(forks, questions, strict=True):
            for start in range(0, question.shape[1], 7):
                out = model(input_ids=question[:, start : start + 7], past_key_values=fork, use_cache=True)
                assert cache_of(out) is fork
            told.append((out.logits, fork.memory.kept_positions(next(iter(fork.memory.layers)))))
        assert memory.seen.tolist() == [50]
        assert [fork.memory.seen.tolist() for fork in forks] == [[71], [80]]
        on = model(input_ids=questions[0], past_key_values=trunk, use_cache=True)
        assert memory.seen.tolist() == [71]
        for question, (logits, kept) in zip(questions, told, strict=True):
            cache = cache_of(model(input_ids=prefix, use_cache=True))
            for start in range(0, question.shape[1], 7):
                out = model(input_ids=question[:, start : start + 7], past_key_values=cache, use_cache=True)
            assert torch.equal(out.logits, logits)
            assert torch.equal(memory.kept_positions(next(iter(memory.layers))), kept)
    assert on.logits.shape[1] == questions[0].shape[1]


@torch.no_grad()
def test_generate_goes_on_from_a_copied_cache_as_transformers_documents_it() -> None:
    model = llama()
    inputs = prompts([60])
    prefix = {name: tensor[:, :40] for name, tensor in inputs.items()}
    with attach(model, make_policy("window", interval=16, budget=8)) as memory:
        trunk = cache_of(model(**prefix, use_cache=True))
        answers = [
            model.generate(**inputs, past_key_values=copy.deepcopy(trunk), max_new_tokens=6, do_sample=False)
            for _ in range(2)
        ]
        assert memory.seen.tolist() == [40]
        plain = model.generate(**inputs, past_key_values=trunk, max_new_tokens=6, do_sample=False)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], plain)


@torch.no_grad()
def test_a_cache_whose_sequences_are_forgotten_is_refused_and_its_copy_is_not() -> None:
    """It went on with the sequences of a later call before, without a word."""
    model = llama()
    first, second = prompts([30])["input_ids"], prompts([25])["input_ids"]
    with attach(model, make_policy("window", interval=16, budget=8)):
        old = cache_of(model(input_ids=first, use_cache=True))
        kept = copy.deepcopy(old)
        wanted = model(input_ids=second[:, :3], past_key_values=copy.deepcopy(old), use_cache=True).logits
        model(input_ids=second, use_cache=True)
        for use in (lambda: model(input_ids=second[:, :3], past_key_values=old), lambda: copy.deepcopy(old)):
            with pytest.raises(AttachError, match="are forgotten"):
                use()
        assert torch.equal(model(input_ids=second[:, :3], past_key_values=kept, use_cache=True).logits, wanted)
    other = attach(model, make_policy("window", interval=16, budget=8))
    with other, pytest.raises(AttachError, match="their block is over"):
        model(input_ids=second[:, :3], past_key_values=kept)
