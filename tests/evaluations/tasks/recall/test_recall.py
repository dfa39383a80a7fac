"""The recall tasks: what a prompt hides is really there, is asked, and can be reproduced."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluations.tasks.recall import tasks
from evaluations.tasks.recall.corpus import RecallVocabulary, read_documents, split_of_document, train_tokenizer
from evaluations.tasks.recall.filler import Filler, hide
from evaluations.tasks.recall.tasks import IGNORED, TASKS, Pairs, Variables, get_task, train_seed, validation_seed
from evaluations.tasks.recall.training import chains_row, jumping_positions, spans_row, stream_row, task_row, text_row
from namm.errors import CheckpointError, ConfigError, UnknownNameError

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.sampled_from(sorted(TASKS))
lengths = st.one_of(st.integers(64, 300), st.sampled_from([512, 1024, 3500]))
seeds = st.builds(
    lambda make, index: make(index),
    st.sampled_from([train_seed, validation_seed, tasks.test_seed]),
    st.integers(0, 2**30 - 1),
)


@pytest.fixture(scope="session")
def vocabulary() -> RecallVocabulary:
    return RecallVocabulary(train_tokenizer())


def task_of(name: str, vocabulary: RecallVocabulary) -> tasks.TextTask:
    return replace(TASKS[name], vocabulary=vocabulary)


def find(context: np.ndarray, run: np.ndarray) -> list[int]:
    """Every index at which `run` begins in `context`."""
    windows = np.lib.stride_tricks.sliding_window_view(context, len(run))
    return np.flatnonzero((windows == run).all(axis=1)).tolist()


@FEW
@given(name=names, context_tokens=lengths, seed=seeds, prompts=st.integers(1, 3))
def test_shapes_targets_and_determinism(vocabulary, name, context_tokens, seed, prompts):
    """A target is the next question token, is asked somewhere, and the same arguments give the same prompt."""
    task = task_of(name, vocabulary)
    batch, again = task.sample(prompts, context_tokens, seed), task.sample(prompts, context_tokens, seed)
    assert batch.context.shape == (prompts, context_tokens)
    assert batch.question.shape == batch.target.shape
    assert (batch.context[:, 0] == int(vocabulary.begin)).all()
    asked = batch.target != IGNORED
    assert asked.any(dim=1).all()
    assert not asked[:, -1].any()
    following = batch.question.roll(-1, dims=1)
    assert (following[asked] == batch.target[asked]).all()
    for one, other in zip(vars(batch).values(), vars(again).values(), strict=True):
        assert torch.equal(one, other)


@FEW
@given(name=names, context_tokens=lengths, seed=seeds)
def test_what_is_asked_was_in_the_context(vocabulary, name, context_tokens, seed):
    """Every answer lies in the context, and the evidence is a small part of a long one."""
    batch = task_of(name, vocabulary).sample(1, context_tokens, seed)
    context, target = batch.context[0].numpy(), batch.target[0].numpy()
    assert np.isin(target[target != IGNORED], context).all()
    if context_tokens >= 512:
        markers = [vocabulary.span, vocabulary.passkey, vocabulary.let, vocabulary.ask]
        evidence = np.isin(context, np.concatenate([vocabulary.keys, vocabulary.values, markers])).sum()
        assert evidence <= 0.15 * context_tokens


@FEW
@given(context_tokens=lengths, seed=seeds)
def test_pairs_lie_whole_and_once(vocabulary, context_tokens, seed):
    """A pair torn apart by filler, or shown twice, would make another task."""
    batch = task_of("pairs", vocabulary).sample(1, context_tokens, seed)
    context, question = batch.context[0].numpy(), batch.question[0].numpy().reshape(-1, 2)
    assert len(np.unique(question[:, 0])) == len(question) == np.clip(context_tokens // 16, 4, 32)
    for pair in question:
        assert len(find(context, pair)) == 1


@FEW
@given(name=st.sampled_from(["passkey", "copy"]), context_tokens=lengths, seed=seeds)
def test_spans_and_passkeys_lie_whole(vocabulary, name, context_tokens, seed):
    """The question repeats whole runs of the context: marker, name, answer."""
    task = task_of(name, vocabulary)
    batch = task.sample(1, context_tokens, seed)
    count = task.needles if name == "passkey" else task.spans
    for run in batch.question[0].numpy().reshape(count, -1):
        assert len(find(batch.context[0].numpy(), run)) == 1


@FEW
@given(context_tokens=st.integers(80, 400), seed=seeds, hops=st.integers(1, 3))
def test_variables_follow_the_chain(vocabulary, context_tokens, seed, hops):
    """Executing the assignments in order gives each answer, and no name is used before it is assigned."""
    task = Variables(vocabulary, chains=4, hops=hops)
    batch = task.sample(1, context_tokens, seed)
    context, memory = batch.context[0].tolist(), {}
    for index in np.flatnonzero(np.array(context) == vocabulary.let):
        _, name, source = context[index : index + 3]
        memory[name] = source if source in vocabulary.values else memory[source]
    for marker, name, value in batch.question[0].numpy().reshape(-1, 3):
        assert marker == vocabulary.ask
        assert memory[name] == value


def test_passkeys_hide_in_real_text_alone(vocabulary):
    """Noise tokens in the haystack would make the needles less hidden (a last few may fill up to a word's end)."""
    context = task_of("passkey", vocabulary).sample(8, 1024, tasks.test_seed(0)).context
    assert np.isin(context.numpy(), vocabulary.noises).mean() < 0.02


@FEW
@given(name=names, context_tokens=st.integers(64, 400), seed=seeds)
def test_prompts_are_text(vocabulary, name, context_tokens, seed):
    """Decoding and encoding gives the same ids: a prompt can be shown, stored and sent as a string."""
    batch = task_of(name, vocabulary).sample(1, context_tokens, seed)
    ids = torch.cat([batch.context, batch.question], dim=1)[0].tolist()
    text = vocabulary.tokenizer.decode(ids, skip_special_tokens=False)
    assert vocabulary.tokenizer.encode(text).ids == ids


def test_splits_are_disjoint(vocabulary):
    """No seed and no document belongs to two splits, and the same index gives other prompts in each."""
    makers = {"train": train_seed, "validation": validation_seed, "test": tasks.test_seed}
    borders = [(make(0), make(2**30 - 1)) for make in makers.values()]
    assert all(high < low for (_, high), (low, _) in pairwise(borders))
    for split, make in makers.items():
        assert tasks.split_of_seed(make(0)) == tasks.split_of_seed(make(2**30 - 1)) == split
    documents = [name for name, _ in read_documents()]
    assert len(set(documents)) == len(documents)
    assert {split_of_document(name) for name in documents} == set(makers)
    for name in TASKS:
        contexts = [task_of(name, vocabulary).sample(1, 256, make(7)).context for make in makers.values()]
        assert not any(torch.equal(one, other) for one, other in pairwise(contexts))


def test_bad_arguments_are_told():
    """A caller sees what was expected, not an index error."""
    with pytest.raises(ConfigError, match="64 context tokens"):
        get_task("pairs").sample(1, 63, 0)
    with pytest.raises(ConfigError, match="test_seed"):
        tasks.split_of_seed(3 * 2**30)
    with pytest.raises(ConfigError, match="seed index"):
        train_seed(2**30)
    with pytest.raises(UnknownNameError, match="Did you mean 'passkey'"):
        get_task("pass_key")
    with pytest.raises(CheckpointError, match="recall_llama"):
        RecallVocabulary.from_folder("/nowhere")


def test_too_much_evidence_is_told(vocabulary):
    """Evidence that does not fit its context must not be cut silently."""
    with pytest.raises(ConfigError, match="evidence"):
        Pairs(vocabulary, pairs=40).sample(1, 64, 0)


@FEW
@given(seed=st.integers(0, 999), tokens=st.integers(0, 80), counts=st.lists(st.integers(1, 5), max_size=6))
def test_hiding_keeps_filler_and_items_whole(vocabulary, seed, tokens, counts):
    """Items come out whole and in order, and removing them gives the filler back."""
    rng = np.random.default_rng(seed)
    ids, starts = Filler(vocabulary, vocabulary.text("test"), 0.5).draw(rng, tokens)
    items = [np.full(count, 10_000 + index) for index, count in enumerate(counts)]
    mixed, first = hide(rng, ids, starts, items)
    assert np.array_equal(mixed[mixed < 10_000], ids)
    for index, (begin, count) in enumerate(zip(first, counts, strict=True)):
        assert find(mixed, items[index]) == [begin]
        assert count == (mixed == 10_000 + index).sum()


@FEW
@given(seed=st.integers(0, 9999), tokens=st.integers(100, 300), filler_fraction=st.floats(0.0, 0.9))
def test_training_rows_predict_what_follows(vocabulary, seed, tokens, filler_fraction):
    """A recall target that is not the next token, or was never seen before, would train the wrong thing."""
    rng = np.random.default_rng(seed)
    filler = Filler(vocabulary, vocabulary.text("train"), 0.5)
    rows = {
        "stream": stream_row(rng, vocabulary, tokens, 8, filler, filler_fraction),
        "spans": spans_row(rng, vocabulary, tokens, filler, filler_fraction),
        "chains": chains_row(rng, vocabulary, tokens, filler, filler_fraction),
        "text": text_row(rng, vocabulary, tokens),
        **{name: task_row(task_of(name, vocabulary), rng, tokens) for name in TASKS},
    }
    for kind, (ids, targets) in rows.items():
        assert ids.shape == targets.shape == (tokens,)
        asked = np.flatnonzero(targets != IGNORED)
        assert np.array_equal(ids[asked + 1], targets[asked])
        assert (len(asked) > 0) == (kind != "text") or kind in {"stream", "spans"}
        for place in asked:
            assert targets[place] in ids[: place + 1]


def test_jumping_positions_increase():
    """Half of the rows stay contiguous, the others reach on, and order is never lost."""
    positions = jumping_positions(np.random.default_rng(0), 8, 100, 1000)
    assert (np.diff(positions, axis=1) >= 1).all()
    assert (positions[:4] == np.arange(100)).all()
    assert 100 < positions.max() < 1000
