"""All targets together: equal weights, equal footing, and curves of score against size."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.analysis.aggregates import aggregate
from evaluations.analysis.comparison import compare
from evaluations.analysis.curves import Curve, area, first_crossing, interpolation, size_needed, target_curves
from evaluations.analysis.estimates import holm
from evaluations.analysis.summary import summarise
from evaluations.report import comparison_figures, curve_figures, figures
from evaluations.report.comparison_tables import HEADS, lines, markdown, rich_table, said
from tests.evaluations.rows.made_up_rows import made_up_curves, made_up_rows, many_targets, with_scores


@pytest.fixture(scope="module")
def rows():
    return many_targets(3)


@pytest.fixture(scope="module")
def compared(rows):
    return compare(summarise(rows))


def on(target: str, policy: str, scores, **options):
    return with_scores(policy, scores, target, **options)


def test_targets_weigh_the_same_however_many_episodes_they_have():
    rows = on("a", "window", [0.0] * 4) + on("b", "window", [100.0] * 40)
    assert compare(summarise(rows)).get("window").aggregates.mean.value == 50.0


def test_a_policy_that_missed_a_target_is_compared_but_not_averaged():
    rows = [*on("a", "namm:source", [9, 8, 9]), *on("b", "namm:source", [1, 2, 1])]
    rows += [*on("a", "window", [1, 1, 1]), *on("b", "window", [1, 1, 1]), *on("a", "random", [0, 0, 0])]
    found = compare(summarise(rows))
    assert found.get("window").aggregates is not None
    random = found.get("random")
    assert random.aggregates is None
    assert (random.improvement.value, random.versus_namm.pairs) == (1.0, 3)
    assert any(cells[0] == "random (1/2)" for _, cells in lines(found))


def test_only_shared_reset_seeds_are_compared():
    namm, window = on("a", "namm:source", [5.0, 5.0, 500.0]), on("a", "window", [4.0, 4.0])
    test = summarise(namm + window)[0].get("window").versus_namm
    assert (test.pairs, test.difference.value) == (2, 1.0)
    for episode in window[0]["episodes"]:
        episode["reset_seed"] += 99
    assert summarise(namm + window)[0].get("window").versus_namm is None


def test_raw_returns_are_never_averaged_with_percentages():
    rows = [*on("a", "window", [50.0] * 3), *on("b", "window", [7000.0] * 3)]
    rows[-1]["score_name"] = "return"
    found = compare(summarise(rows))
    assert found.get("window").aggregates.mean.value == 50.0
    assert found.left_out == ("b",)
    assert "left out here: b" in said(found)[0][1]


def test_paired_difference_over_targets_is_the_mean_of_the_targets_own():
    rows = [*on("a", "namm:source", [10, 20, 30]), *on("b", "namm:source", [50, 60])]
    rows += [*on("a", "window", [9, 18, 27]), *on("b", "window", [40, 40])]
    test = compare(summarise(rows)).get("window").versus_namm
    assert test.difference.value == pytest.approx((2.0 + 15.0) / 2)
    assert test.pairs == 5


def test_p_values_over_targets_are_corrected_for_the_rivals(compared):
    rivals = [entry for entry in compared.entries if entry.is_rival]
    assert len(rivals) == 3
    assert [e.versus_namm.adjusted for e in rivals] == holm([e.versus_namm.p_value for e in rivals])


def test_the_oracle_is_a_ceiling_and_takes_no_part_in_the_rivals_correction():
    rows = [*on("a", "namm:source", [9, 8, 9, 7]), *on("a", "window", [1, 2, 1, 3])]
    alone = summarise(rows)[0].get("window").versus_namm.adjusted
    for label in ("oracle", "oracle(safeguard=0.2)"):
        target = summarise([*rows, *on("a", label, [10, 10, 10, 10])])[0]
        assert target.get("window").versus_namm.adjusted == alone
        assert [policy.policy for policy in target.rivals] == ["window"]
        assert target.get(label).is_reference


def test_relative_scores_and_sizes_are_those_of_the_reference(compared, rows):
    native, full = compared.get("native_window"), compared.get("full")
    assert native.aggregates.relative.value == pytest.approx(100.0)
    assert full.aggregates.kept == pytest.approx(1.0)
    window = compared.get("window")
    wanted = np.mean(
        [100 * window.by_target[name].score.value / native.by_target[name].score.value for name in window.by_target]
    )
    assert window.aggregates.relative.value == pytest.approx(wanted, rel=1e-6)
    assert window.aggregates.mean == aggregate(window.tasks(), 0)


def test_conclusions_over_targets_follow_from_the_corrected_tests(compared):
    text = " ".join(sentence for _, sentence in said(compared))
    for entry in compared.entries:
        if entry.versus_namm is not None:
            clear = f"{entry.name} ({entry.versus_namm.difference.value:+.1f}" in text.split("not told apart")[0]
            assert clear == entry.versus_namm.is_clear


def test_terminal_and_markdown_show_the_same_cells(compared):
    from rich.console import Console

    console = Console(width=200, record=True)
    console.print(rich_table(compared))
    printed, written = console.export_text(), markdown(compared)
    for _, cells in lines(compared):
        assert len(cells) == len(HEADS)
        for cell in cells:
            assert cell in printed
            assert cell in written


def test_points_of_curves_stay_out_of_the_tables():
    rows = made_up_rows()
    before = summarise(rows)
    after = summarise([*rows, *made_up_curves()])
    assert [p.score for p in before[0].policies] == [p.score for p in after[0].policies]


def test_a_curve_holds_the_matched_budget_too_and_is_ordered_by_the_size_really_held():
    rows = [*made_up_rows(), *made_up_curves()]
    (found,) = target_curves(rows, summarise(rows))
    curves = {curve.policy: curve for curve in found.curves}
    assert set(curves) == {"window", "random", "oldest", "namm:target"}
    assert [point.budget for point in curves["window"].points] == [6, 16, 40, 48, 100, 250, 640]
    assert (np.diff(curves["window"].slots) > 0).all()
    assert [point.policy for point in found.free] == ["namm:target", "namm:source"]
    assert target_curves(made_up_rows(), summarise(made_up_rows())) == []


def test_points_of_a_curve_are_all_played_with_the_same_seeds():
    """Curves of seed 0 alone: the matched budget and the reference are cut to it, and NAMM's own rows stay out."""
    rows = [*made_up_rows(), *made_up_curves(seeds=1)]
    for row in rows:
        if row["policy"] == "namm:target" and row["memory"].get("role") != "curve":
            row["identity"]["budget"] = 77
    (found,) = target_curves(rows, summarise(rows))
    assert {row["seed"] for curve in found.curves for point in curve.points for row in point.rows} == {0}
    assert {row["seed"] for row in found.reference.rows} == {0}
    assert 77 not in [point.budget for point in found.curves[0].points]


def straight(scores, slots=(10.0, 100.0, 1000.0)) -> Curve:
    rows = made_up_curves(seeds=1)
    points = []
    for score, held in zip(scores, slots, strict=True):
        row = {**rows[0], "metrics": {**rows[0]["metrics"], "slots_mean": held}}
        row["episodes"] = [{**episode, "score": float(score)} for episode in row["episodes"]]
        points.append(summarise([{**row, "memory": {**row["memory"], "role": "given"}}])[0].policies[0])
    return Curve("window", tuple(points))


def test_area_is_the_mean_height_over_the_logarithm_of_the_size():
    assert area(straight([0, 50, 100]), (10.0, 1000.0)).value == pytest.approx(50.0)
    assert area(straight([0, 50, 50]), (100.0, 1000.0)).value == pytest.approx(50.0)
    assert area(straight([0, 100, 100]), (10.0, 1000.0)).value == pytest.approx(75.0, abs=0.5)


def test_size_needed_is_where_the_curve_first_crosses():
    full = summarise(with_scores("full", [100.0] * 4))[0].policies[0]
    assert size_needed(straight([0, 50, 100]), full, 0.5).value == pytest.approx(100.0)
    assert size_needed(straight([0, 50, 100]), full, 0.75).value == pytest.approx(10**2.5)
    assert size_needed(straight([60, 50, 100]), full, 0.5).value == 10.0
    assert size_needed(straight([0, 50, 60]), full, 0.95).value == np.inf
    negative = summarise(with_scores("full", [-5.0] * 4))[0].policies[0]
    assert size_needed(straight([0, 50, 60]), negative) is None


def test_size_needed_has_the_interval_of_its_crossings():
    """Against the crossing of every resampled curve, one by one."""
    rows = [*made_up_rows(), *made_up_curves()]
    (found,) = target_curves(rows, summarise(rows))
    curve, native = found.curves[0], found.summary.get("native_window")
    draws = curve.draws(50)
    sizes = np.geomspace(*curve.slots[[0, -1]], 5000)
    heights = [np.interp(np.log(sizes), np.log(curve.slots), draw) for draw in draws]
    slow = [next((s for s, height in zip(sizes, line, strict=True) if height >= 60), np.inf) for line in heights]
    np.testing.assert_allclose(first_crossing(curve.slots, draws, np.full(50, 60.0)), slow, rtol=2e-3)
    needed = size_needed(curve, native)
    assert needed.low <= needed.value <= needed.high


def test_interpolation_is_exact_at_the_points():
    slots = np.array([3.0, 10.0, 200.0])
    np.testing.assert_allclose(interpolation(slots, slots), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(interpolation(slots, np.array([1.0, 900.0])), [[1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_pictures_of_the_comparison(compared, rows):
    found = target_curves(rows, compared.targets)
    drawn = [draw(compared) for draw in (comparison_figures.aggregates, comparison_figures.improvement)]
    drawn += [comparison_figures.profiles(compared), curve_figures.by_target(found), curve_figures.together(found)]
    for figure in drawn:
        assert figures.png(figure, dpi=40).startswith(b"\x89PNG")
    assert comparison_figures.average_profiles(compared) is None  # three means make no profile
    panels = [axes for axes in drawn[3].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [target.target for target in compared.targets]
    assert curve_figures.together(found[:1]) is None
