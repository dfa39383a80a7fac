"""Sentences follow from intervals and corrected tests; nothing is concluded from a variant chosen on what is shown."""

from __future__ import annotations

import pytest

from evaluations.analysis.summary import role, summarise
from evaluations.analysis.variants import HELD_OUT, held_out
from evaluations.analysis.verdicts import notes
from tests.evaluations.rows.made_up_rows import made_up_rows, with_scores


def said(rows) -> str:
    return " ".join(text for _, text in notes(summarise(rows)[0]))


def warned(rows) -> str:
    return " ".join(text for kind, text in notes(summarise(rows)[0]) if kind == "warning")


def test_ahead_is_said_only_of_what_the_paired_test_tells_apart():
    namm = with_scores("namm:target", [90, 91, 92, 93] * 3)
    assert "ahead of window" in said(namm + with_scores("window", [50, 52, 54, 51] * 3))
    assert "behind window" in warned(namm + with_scores("window", [150, 152, 154, 151] * 3))
    close = said(namm + with_scores("window", [88, 93, 90, 95] * 3))
    assert "ahead of" not in close
    assert "not told apart from window" in close


def test_many_rivals_need_a_smaller_p_value():
    """The same difference is told apart alone (p = 4 / 2**8) and not as one of six."""
    namm = with_scores("namm:target", [10.0] * 8)
    window = with_scores("window", [9, 8, 9, 8, 9, 8, 9, 10.5])
    assert "ahead of window" in said(namm + window)
    others = [row for name in ("random", "h2o", "l2_norm", "a", "b") for row in renamed(window, name)]
    text = said(namm + window + others)
    assert "ahead of" not in text
    assert "corrected for 6 rivals" in text


def test_too_few_episodes_are_told_instead_of_a_verdict():
    namm = with_scores("namm:target", [100.0, 100.0, 100.0])
    text = warned(namm + with_scores("window", [0.0, 1.0, 2.0]) + with_scores("oldest", [0.0, 1.0, 2.0]))
    assert "Too few episodes to tell namm:target apart from its rivals: with 3 pairs" in text
    assert "does not rank" not in text


def test_a_task_that_tells_nobody_apart_does_not_rank():
    namm = with_scores("namm:target", [90, 91, 92, 93] * 4)
    same = with_scores("window", [91, 90, 93, 92] * 4) + with_scores("random", [92, 93, 90, 91] * 4)
    assert "does not rank memory policies" in warned(namm + same)
    worse = with_scores("window", [10, 11, 12, 13] * 4) + with_scores("random", [92, 93, 90, 91] * 4)
    assert "does not rank memory policies" not in warned(namm + worse)


def test_native_window_and_full_are_judged_by_the_same_rule():
    namm = with_scores("namm:target", [90, 91, 92, 93] * 4)
    text = said(namm + with_scores("native_window", [99, 98, 99, 97] * 4) + with_scores("full", [20, 30, 25, 28] * 4))
    assert "behind native_window" in text
    assert "ahead of full" in text


def test_negative_control():
    namm, window = with_scores("namm:target", [90, 91] * 8), with_scores("window", [80, 82] * 8)
    good = said(namm + window + with_scores("oldest", [20, 21] * 8))
    assert "clearly worse than all others" in good
    some = warned(namm + window + with_scores("oldest", [80, 82] * 8))
    assert "oldest, the negative control, is not clearly worse than window: between these" in some
    none = warned(namm + window + with_scores("oldest", [99, 98] * 8))
    assert "not clearly worse than window and namm:target: this task does not rank" in none


def test_a_policy_that_was_asked_to_evict_and_did_not():
    text = said(with_scores("window", [1, 2, 3], evicted=0.0))
    assert "window was asked to forget and evicted nothing" in text
    assert "evicted nothing" not in said(with_scores("window", [1, 2, 3], evicted=5.0))
    assert "evicted nothing" not in said(with_scores("full", [1, 2, 3], evicted=0.0))


def test_the_full_cache_broken_by_length():
    native = with_scores("native_window", [99, 98, 97])
    assert "breaks down beyond the context" in said(native + with_scores("full", [60, 70, 65]))
    assert "breaks down" not in said(native + with_scores("full", [99, 98, 96]))


def test_a_missed_match():
    namm = with_scores("namm:target", [90, 91, 92], slots_mean=60.0)
    window = with_scores("window", [90, 91, 92], slots_mean=90.0)
    window[0]["memory"]["matched_to"] = "namm:target"
    assert "held 90.0 slots on average where 60.0 were asked for" in warned(namm + window)


def test_best_namm_is_the_highest_score_and_of_equal_ones_the_smaller():
    tie = with_scores("namm:source", [90, 91], slots_mean=50.0) + with_scores("namm:target", [90, 91], slots_mean=60.0)
    assert summarise(tie)[0].best_namm.policy == "namm:source"
    better = with_scores("namm:source", [80, 81]) + with_scores("namm:target", [90, 91])
    assert summarise(better)[0].best_namm.policy == "namm:target"


def test_each_seed_is_judged_by_the_variant_that_the_other_seeds_chose():
    """Variant A wins seeds 0 and 1, B wins seed 2 by luck: seed 2 must be scored with A."""
    a, b = (
        [row for seed, score in enumerate(scores) for row in with_scores(name, [score] * 4, seed=seed)]
        for name, scores in (("namm:source", (90, 90, 10)), ("namm:target", (50, 50, 95)))
    )
    chosen = held_out([a, b])
    assert [row["memory"]["chosen"] for row in chosen] == [["namm:target"], ["namm:target"], ["namm:source"]]
    assert [row["score"] for row in chosen] == [50, 50, 10]
    target = summarise(a + b)[0]
    assert target.contender.policy == HELD_OUT
    assert target.contender.score.value < target.best_namm.score.value
    assert "flatters it" in said(a + b)


def test_with_one_seed_the_halves_choose_for_one_another():
    a, b = with_scores("namm:source", [9, 1, 9, 1]), with_scores("namm:target", [2, 8, 2, 8])
    (row,) = held_out([a, b])
    assert [episode["score"] for episode in row["episodes"]] == [2, 1, 2, 1]
    assert held_out([with_scores("namm:source", [9]), with_scores("namm:target", [2])]) is None
    alone = with_scores("namm:source", [9]) + with_scores("namm:target", [2])
    assert "chosen of 2 variants on the very episodes shown" in warned(alone)


def test_the_choice_does_not_flatter_variants_that_differ_by_luck_alone():
    """Three equal variants: the best of them averages well above the truth, the held-out choice does not."""
    import numpy as np

    generator, best, fitted = np.random.default_rng(0), [], []
    for _ in range(120):
        variants = [
            [row for seed in range(3) for row in with_scores(f"namm:{n}", generator.normal(0, 10, 4), seed=seed)]
            for n in ("source", "target", "sequence")
        ]
        best.append(max(np.mean([row["score"] for row in rows]) for rows in variants))
        fitted.append(np.mean([row["score"] for row in held_out(variants)]))
    assert np.mean(best) > 1.5
    assert abs(np.mean(fitted)) < 1.0


def test_a_declared_variant_is_compared_as_it_is():
    rows = [row for row in made_up_rows() if row["policy"] not in ("native_window", "full")]
    for row in rows:
        if row["policy"] in ("window", "random", "oldest"):
            row["memory"] |= {"matched_to": "namm:source", "matched_by": "declared"}
    target = summarise(rows)[0]
    assert target.contender is target.get("namm:source")
    assert "namm:source was declared beforehand" in said(rows)


@pytest.mark.parametrize(
    ("policy", "memory", "budget", "expected"),
    [
        ("full", {}, None, "reference"),
        ("namm:source", {}, None, "free"),
        ("window", {"matched_to": "namm:source"}, 9, "matched"),
        ("window", {}, 9, "given"),
        ("window", {"matched_to": "namm:source", "role": "curve"}, 9, "curve"),
    ],
)
def test_role_of_a_row_with_and_without_the_key(policy, memory, budget, expected):
    row = with_scores(policy, [1.0])[0]
    assert role({**row, "memory": memory, "identity": {"budget": budget}}) == expected


def renamed(rows, policy):
    return [{**row, "policy": policy} for row in rows]
