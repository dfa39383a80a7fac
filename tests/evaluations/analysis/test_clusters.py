"""Prompts about one document: drawn together, flipped together, never on both sides of a choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evaluations.analysis.aggregates import (
    aggregate,
    interquartile_of_trials,
    paired_over_tasks,
    performance_profile,
    probability_of_improvement,
)
from evaluations.analysis.clusters import Clustered, clustered
from evaluations.analysis.curves import mean_draws
from evaluations.analysis.estimates import bootstrap, interquartile_mean
from evaluations.analysis.summary import differences, policy_summary, summarise
from evaluations.analysis.variants import held_out
from evaluations.language.conditions import lines
from evaluations.rows.file import Row
from namm.errors import DataError
from tests.evaluations.rows.made_up_rows import with_scores


def about(rows: list[Row], documents: Sequence[str | None]) -> list[Row]:
    """The same rows, their trials about these documents."""
    (row,) = rows
    marked = [
        trial if document is None else {**trial, "document": document}
        for trial, document in zip(row["episodes"], documents, strict=True)
    ]
    return [{**row, "episodes": marked}]


def width(estimate) -> float:
    return estimate.high - estimate.low


def test_a_question_asked_four_times_tells_no_more_than_once() -> None:
    """Copies narrow a plain interval to half; drawn together they leave it as it was."""
    scores = np.random.default_rng(0).normal(size=(1, 40))
    copies = np.repeat(scores, 4, axis=1)
    once, plain = aggregate([scores], 0), aggregate([copies], 0)
    together = aggregate([clustered(copies, list(np.repeat(np.arange(40), 4)))], 0)
    assert width(plain) == pytest.approx(width(once) / 2, rel=0.1)
    assert width(together) == pytest.approx(width(once), rel=0.1)
    assert together.value == pytest.approx(once.value)


def test_intervals_cover_where_documents_differ() -> None:
    """Ten documents of 1 to 9 questions, whose levels differ as much as questions do: 95% asked for."""
    generator = np.random.default_rng(1)
    documents = np.repeat(np.arange(20), [1, 3, 5, 2, 9, 4, 1, 6, 7, 2] * 2)
    covered = {"plain": 0, "together": 0}
    for _ in range(200):
        scores = (generator.normal(size=20)[documents] + generator.normal(size=documents.size))[None]
        for name, task in (("plain", scores), ("together", clustered(scores, list(documents)))):
            found = aggregate([task], 0, resamples=400)
            covered[name] += found.low <= 0.0 <= found.high
    assert covered["plain"] < 160
    assert covered["together"] > 175


def test_a_book_with_most_of_the_questions_is_drawn_whole_or_not_at_all() -> None:
    """Cut to the data's number of prompts, nearly every resample would be of this one book: 13 of 100 for 95."""
    generator = np.random.default_rng(1)
    documents = np.repeat(np.arange(10), [100] + [1] * 9)
    covered = 0
    for _ in range(200):
        scores = (generator.normal(size=10)[documents] + generator.normal(size=documents.size))[None]
        found = aggregate([clustered(scores, list(documents))], 0, resamples=400)
        covered += found.low <= 0.0 <= found.high
    assert covered > 150


def test_every_resample_holds_whole_documents() -> None:
    documents = np.array([[0, 1, 1], [0, 2, 0]])
    counts = Clustered(np.zeros((2, 3)), documents).counts(500, np.random.default_rng(0))
    for number, members in enumerate(([0, 3, 5], [1, 2], [4])):
        assert (counts[:, members] == counts[:, members[:1]]).all()
        assert counts[:, members[0]].mean() == pytest.approx(1.0, abs=0.1), number
    assert (counts[:, 0] + counts[:, 1] + counts[:, 4] == 3).all()


def test_draws_are_those_of_a_slow_obvious_version() -> None:
    """Documents by number, their questions one by one: means of seeds, and the middle half of all."""
    scores = np.random.default_rng(5).normal(size=(2, 6))
    documents = np.array([[0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 3, 4]])
    task = Clustered(scores, documents)
    runs = task.runs(300, np.random.default_rng(7))
    middle = []
    for row, times in enumerate(np.random.default_rng(7).multinomial(5, [0.2] * 5, size=300)):
        drawn = [(s, scores[s, t]) for s in range(2) for t in range(6) for _ in range(times[documents[s, t]])]
        for seed in range(2):
            own = [value for s, value in drawn if s == seed] or [value for _, value in drawn]
            assert runs[row, seed] == pytest.approx(np.mean(own))
        middle.append(interquartile_mean(np.array([value for _, value in drawn])))
    found = interquartile_of_trials(task, seed=7, resamples=300)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(middle, (2.5, 97.5))))
    assert found.value == pytest.approx(interquartile_mean(scores.ravel()))


def test_the_same_questions_under_three_seeds_are_no_more_questions() -> None:
    """RULER draws other contexts for the same questions: seeds apart would narrow the interval for nothing."""
    questions = np.random.default_rng(6).normal(size=30)
    once, thrice = questions[None], np.tile(questions, (3, 1))
    together = aggregate([clustered(thrice, [*range(30)] * 3)], 0)
    assert width(together) == pytest.approx(width(aggregate([once], 0)), rel=0.1)
    assert width(aggregate([thrice], 0)) < 0.7 * width(together)


def test_single_documents_change_no_number() -> None:
    scores = np.random.default_rng(2).normal(size=(3, 8))
    assert clustered(scores, [None] * 24) is scores
    assert clustered(scores, list(range(24))) is scores
    plain = with_scores("window", [3, 1, 4, 1, 5])
    for marks in ([None] * 5, list("abcde")):
        single, unmarked = (policy_summary("x", "window", rows) for rows in (about(plain, marks), plain))
        assert (single.score, single.interquartile) == (unmarked.score, unmarked.interquartile)
        assert np.array_equal(mean_draws(single), mean_draws(unmarked))
        assert np.array_equal(differences(single, unmarked), np.zeros((1, 5)))


def test_signs_of_one_document_flip_together() -> None:
    """Twelve questions about one document and a few others: without that, p would be far smaller."""
    differences = np.array([[1.0] * 12 + [1.0, 1.0, 1.0]])
    apart = paired_over_tasks([differences], 0)
    together = paired_over_tasks([clustered(differences, ["book"] * 12 + [None] * 3)], 0)
    assert apart.pairs == 15
    assert apart.p_value < 0.001
    assert together.pairs == 4
    assert together.p_value == pytest.approx(2 / 2**4)
    assert together.smallest_p_value == pytest.approx(2 / 2**4)
    assert together.difference.value == apart.difference.value == 1.0


def test_one_document_tells_no_interval() -> None:
    found = aggregate([clustered(np.array([[1.0, 2.0, 3.0]]), ["book"] * 3)], 0)
    assert not np.isfinite(found.low)


def test_improvement_and_profiles_draw_documents_as_well() -> None:
    generator = np.random.default_rng(3)
    first, second = (np.repeat(generator.normal(size=(1, 12)), 5, axis=1) for _ in range(2))
    documents = list(np.repeat(np.arange(12), 5))
    tasks = clustered(first, documents), clustered(second, documents)
    assert width(probability_of_improvement([tasks[0]], [tasks[1]], 0)) > 1.6 * width(
        probability_of_improvement([first], [second], 0)
    )
    thresholds = np.array([0.0])
    drawn, plain = (performance_profile([task], thresholds, 0) for task in (tasks[0], first))
    assert (drawn.high - drawn.low)[0] > 1.6 * (plain.high - plain.low)[0]


def test_rows_tell_their_documents_to_scores_and_differences() -> None:
    """From the rows on: interval of a score, of its interquartile mean, and the paired test."""
    scores = np.repeat([90, 20, 70, 40, 60, 10], 4)
    documents = [name for name in "abcdef" for _ in range(4)]
    rivals = scores - np.repeat([5, 8, 2, 9, 6, 4], 4)
    found = {}
    for name, marks in (("apart", [None] * 24), ("together", documents)):
        rows = [*about(with_scores("namm:source", scores), marks), *about(with_scores("window", rivals), marks)]
        (target,) = summarise(rows)
        found[name] = target.get("window")
    apart, together = found["apart"], found["together"]
    assert width(together.score) > 1.5 * width(apart.score)
    assert width(together.interquartile) > 1.3 * width(apart.interquartile)
    assert (apart.versus_namm.pairs, together.versus_namm.pairs) == (24, 6)
    assert together.versus_namm.p_value == pytest.approx(2 / 2**6)
    ours, theirs = (policy_summary("x", rows[0]["policy"], rows) for rows in (with_scores("namm", scores), [rows[1]]))
    for pair in ((ours, theirs), (theirs, ours)):  # a policy added to rows of before: one side knows
        assert paired_over_tasks([differences(*pair)], 0).pairs == 6


def test_tables_of_recipes_draw_documents_as_well() -> None:
    scores = np.repeat([90, 20, 70, 40, 60, 10], 4)
    for marks, wider in (([None] * 24, False), ([name for name in "abcdef" for _ in range(4)], True)):
        told, everything = lines(about(with_scores("window", scores), marks))
        plain = bootstrap([(scores / 100.0).tolist()], seed=0)
        assert told[4] == everything[4]
        assert told[4].value == pytest.approx(plain.value)
        assert (told[4] == plain, width(told[4]) > 1.5 * width(plain)) == (not wider, wider)


def test_a_variant_is_not_chosen_on_the_documents_it_is_judged_on() -> None:
    """With one seed, halves choose for one another: here by document, not by question."""
    marks = ["a", "a", "b", "b"]
    first = about(with_scores("namm:a", [9, 9, 0, 0]), marks)
    second = about(with_scores("namm:b", [1, 1, 5, 5]), marks)
    (row,) = held_out([first, second])
    assert [trial["score"] for trial in row["episodes"]] == [1, 1, 0, 0]  # each half took the other half's winner
    assert held_out([about(with_scores("namm:a", [1, 2]), ["a", "a"])] * 2) is None


def test_documents_must_fit_the_scores() -> None:
    with pytest.raises(DataError, match="a document for each"):
        Clustered(np.zeros((1, 3)), np.array([0, 1]))
