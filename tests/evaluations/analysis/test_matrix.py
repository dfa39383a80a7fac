"""The transfer matrix from rows: every number of a cell is one that can be made again by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluations.analysis.estimates import Estimate, holm
from evaluations.analysis.matrix import Column, Line, matrix, over_runs
from evaluations.analysis.matrix_verdicts import sentence
from evaluations.report import matrix_figures, matrix_tables

CONTROL = Column("memory", "control: memory", ("maze", "reacher"))
RUNS = {"aa": ("text-v9", "text-v9"), "bb": ("text-v9", "text-v9-seed1"), "cc": ("other", "other")}
FULL = {"maze": [100.0, 100.0, 50.0, 100.0], "reacher": [80.0, 80.0, 40.0, 40.0]}


def a_row(target, policy, scores, namm=None, seed=0, kept=0.25, **told):
    """A row of control, with what the matrix reads."""
    share, budget, role = told.get("share"), told.get("budget"), told.get("role", "given")
    options = {"options": told["options"]} if "options" in told else {}
    memory = {"role": role, "asked_to_evict": role != "reference", **({} if share is None else {"share": share})}
    return {
        "key": f"{target} {policy} {namm} {seed} {share} {budget}",
        "target": target,
        "task": target,
        "policy": policy,
        "seed": seed,
        "identity": {"modality": "control", "budget": budget, **options, **({"namm_sha256": namm} if namm else {})},
        "score": float(np.mean(scores)),
        "score_name": told.get("score_name", "success rate"),
        "metrics": {"kept_fraction": kept, "bytes_mean": 1024.0, "slots_mean": 10.0},
        "memory": memory,
        "seconds": 2.0,
        "versions": {},
        "episodes": [{"reset_seed": seed * 100 + n, "score": float(score)} for n, score in enumerate(scores)],
    }


def full_rows():
    return [a_row(target, "full", scores, role="reference", kept=1.0) for target, scores in FULL.items()]


def namm_rows(digest, maze, reacher, **told):
    told = {"share": 0.25, "role": "free", **told}
    return [
        a_row("maze", "namm:sequence(keep=0.25)", maze, namm=digest, **told),
        a_row("reacher", "namm:sequence(keep=0.25)", reacher, namm=digest, **told),
    ]


def rival_rows(name, maze, reacher, **told):
    told = {"share": 0.25, "budget": 30, **told}
    return [a_row("maze", name, maze, **told), a_row("reacher", name, reacher, **told)]


def test_a_cell_is_what_can_be_made_by_hand() -> None:
    rows = full_rows() + namm_rows("aa", [100, 0, 50, 100], [80, 80, 0, 0]) + rival_rows("window", [0] * 4, [40] * 4)
    found = matrix(rows, [CONTROL], RUNS)
    line = Line("text-v9", "namm", 0.25)
    cell = found.cell(line, CONTROL)
    maze = 100 * (100 + 0 + 50 + 100) / (100 + 100 + 50 + 100)
    reacher = 100 * (80 + 80) / (80 + 80 + 40 + 40)
    assert cell.by_target == pytest.approx({"maze": maze, "reacher": reacher})
    assert cell.relative.value == pytest.approx((maze + reacher) / 2)
    assert cell.score == pytest.approx((62.5 + 40.0) / 2)
    assert (cell.kept, cell.bytes, cell.seconds) == (0.25, 1024.0, pytest.approx(2 * 2.0 / 8))
    assert cell.relative.low < cell.relative.value < cell.relative.high
    assert found.cell(Line("full", "reference"), CONTROL).relative == Estimate(100.0, 100.0, 100.0)


def test_each_way_to_divide_a_size_is_a_line_of_its_own() -> None:
    """A bug would be to pool a budget in every head with one threshold, or two policies that differ in an option."""
    scores, keep = ([100, 0, 50, 100], [80, 80, 0, 0]), {"keep": 0.25}
    rows = full_rows() + namm_rows("aa", *scores, options=keep) + rival_rows("keydiff", *scores)
    for target, values in zip(FULL, scores, strict=True):
        rows.append(a_row(target, "namm:sequence(threshold=-1e9)", values, namm="aa", share=0.25, budget=30))
        for name in ("keydiff(keep=0.25)", "snapkv(kernel_size=3,keep=0.25)", "snapkv(keep=0.25)"):
            rows.append(a_row(target, name, values, role="free", options=keep))
    found = matrix(rows, [CONTROL], RUNS)
    assert {(line.name, line.share) for line in found.lines if line.kind != "reference"} == {
        (name, 0.25)
        for name in (
            "text-v9", "text-v9, equal heads", "keydiff", "keydiff, one threshold", "snapkv, one threshold",
            "snapkv(kernel_size=3), one threshold",
        )
    }  # fmt: skip


def test_runs_of_a_recipe_are_one_line_with_an_interval_over_runs() -> None:
    """A bug would be to pool their trials: then three runs look as sure as three times the trials."""
    high, low = ([100, 100, 50, 100], [80, 80, 40, 40]), ([0, 0, 0, 0], [0, 0, 0, 0])
    one = matrix(full_rows() + namm_rows("aa", *high), [CONTROL], RUNS)
    both = matrix(full_rows() + namm_rows("aa", *high) + namm_rows("bb", *low), [CONTROL], RUNS)
    line = Line("text-v9", "namm", 0.25)
    assert both.cell(line, CONTROL).by_run == pytest.approx({"text-v9": 100.0, "text-v9-seed1": 0.0})
    assert both.cell(line, CONTROL).relative.value == pytest.approx(50.0)
    reach = stats.t.ppf(0.975, 1) * np.std([100.0, 0.0], ddof=1) / np.sqrt(2)
    assert both.cell(line, CONTROL).relative.high == pytest.approx(50.0 + reach, rel=0.01)
    assert one.cell(line, CONTROL).relative == Estimate(100.0, 100.0, 100.0)
    assert "2 runs" in sentence(both, line)
    assert "runs from 0.0 to 100.0" in sentence(both, line)


def test_an_interval_over_runs_covers_what_the_recipe_comes_to() -> None:
    draw, inside, trials = np.random.default_rng(0), 0, 2_000
    for _ in range(trials):
        runs = 50.0 + draw.normal(0.0, 8.0, size=3)  # the runs of one recipe
        on_trials = draw.normal(0.0, 3.0)  # shared by the runs: all play the same trials
        value = runs.mean() + on_trials
        told = over_runs(Estimate(value, value - 1.96 * 3.0, value + 1.96 * 3.0), list(runs))
        inside += told.low <= 50.0 <= told.high
    assert 0.93 <= inside / trials <= 0.99


def test_a_namm_is_tested_against_every_rival_of_its_size_and_corrected_together() -> None:
    draw = np.random.default_rng(1)
    ours = [(100 * (draw.random(40) < 0.9)).tolist() for _ in range(2)]
    rows = [a_row(t, "full", [100.0] * 40, role="reference") for t in FULL]
    rows += namm_rows("aa", *ours)
    rows += rival_rows("window", *[(100 * (draw.random(40) < 0.3)).tolist() for _ in range(2)])
    rows += rival_rows("keydiff", *ours)
    rows += rival_rows("tova", *[[0.0] * 40] * 2, share=0.5, budget=60)
    found = matrix(rows, [CONTROL], RUNS)
    line = Line("text-v9", "namm", 0.25)
    cell = found.cell(line, CONTROL)
    assert set(cell.versus) == {"window", "keydiff", "full"}, "tova has another size"
    assert cell.best_rival == "keydiff"
    assert cell.versus["window"].is_clear
    assert not cell.versus["keydiff"].is_clear
    raw = {name: test.p_value for name, test in cell.versus.items()}
    assert {name: test.adjusted for name, test in cell.versus.items()} == pytest.approx(
        dict(zip(raw, holm(list(raw.values())), strict=True))
    )
    assert matrix_tables.mark(cell) == "="
    said = sentence(found, line)
    assert "ahead of window" in said
    assert "not told apart from keydiff" in said


def test_differences_are_in_one_unit_whatever_the_scores() -> None:
    """A column may hold accuracies and log-likelihoods: a mean of points and nats would be of nothing."""
    rows = full_rows() + namm_rows("aa", [100, 100, 50, 50], FULL["reacher"]) + rival_rows("window", *FULL.values())
    cell = matrix(rows, [CONTROL], RUNS).cell(Line("text-v9", "namm", 0.25), CONTROL)
    assert cell.versus["window"].difference.value == pytest.approx((100 * (-50 / 4) / 87.5 + 0.0) / 2)
    assert cell.score == pytest.approx((75.0 + 60.0) / 2)
    other = [{**row, "score_name": "normalised score"} if row["target"] == "maze" else row for row in rows]
    assert matrix(other, [CONTROL], RUNS).cell(Line("text-v9", "namm", 0.25), CONTROL).score is None


def test_too_few_trials_are_told_as_that() -> None:
    rows = full_rows() + namm_rows("aa", *FULL.values()) + rival_rows("window", [0] * 4, [0] * 4)
    rows = [{**row, "episodes": row["episodes"][:2]} for row in rows]
    said = sentence(matrix(rows, [CONTROL], RUNS), Line("text-v9", "namm", 0.25))
    assert "too few trials" in said
    assert "ahead" not in said


def test_a_rival_of_another_size_is_named() -> None:
    rows = full_rows() + namm_rows("aa", *FULL.values()) + rival_rows("window", *FULL.values(), kept=0.4)
    assert "not of equal size: window 40%" in sentence(matrix(rows, [CONTROL], RUNS), Line("text-v9", "namm", 0.25))


def test_rows_of_other_commands_are_told_by_their_budget_and_by_their_name() -> None:
    """A row that rl.py has made says no share; it is the same cell all the same."""
    rows = full_rows() + rival_rows("window", *FULL.values())
    rows += rival_rows("keydiff", *FULL.values(), share=None)
    rows += namm_rows("aa", *FULL.values(), share=None, options={"keep": 0.25})
    found = matrix(rows, [CONTROL], RUNS)
    assert {line for line in found.lines if line.share == 0.25} == {
        Line("window", "rival", 0.25), Line("keydiff", "rival", 0.25), Line("text-v9", "namm", 0.25),
    }  # fmt: skip


def test_a_namm_at_its_own_size_is_a_line_of_its_own_and_compared_with_no_budget() -> None:
    rows = full_rows() + namm_rows("aa", *FULL.values(), share=None) + rival_rows("window", *FULL.values())
    rows = [{**row, "policy": "namm:sequence"} if row["policy"].startswith("namm") else row for row in rows]
    found = matrix(rows, [CONTROL], RUNS)
    cell = found.cell(Line("text-v9", "namm"), CONTROL)
    assert set(cell.versus) == {"full"}
    assert cell.best_rival is None


def test_log_likelihoods_are_told_as_likelihood_against_the_full_cache() -> None:
    def row(policy, scores, **told):
        made = a_row("real", policy, scores, **told)
        prompts = [{"id": n, "score": score} for n, score in enumerate(scores)]
        identity = {**made["identity"], "modality": "text"}
        kind = {"score": float(np.mean(scores)), "score_name": "log-likelihood of a token", "identity": identity}
        return {**{k: v for k, v in made.items() if k != "episodes"}, **kind, "prompts": prompts}

    rows = [row("full", [-0.1, -0.2, -0.3], role="reference", kept=1.0)]
    rows += [row("window", [-1.1, -1.2, -2.3], share=0.25, budget=9)]
    column = Column("real", "real", ("real",))
    cell = matrix(rows, [column], RUNS).cell(Line("window", "rival", 0.25), column)
    assert cell.relative.value == pytest.approx(100 * np.exp(-(1 + 1 + 2) / 3))
    assert cell.relative.low < cell.relative.value < cell.relative.high


def test_what_cannot_be_a_part_of_the_full_cache_is_left_out_by_name() -> None:
    rows = [a_row("maze", "full", [-5.0, -4.0], role="reference", score_name="return")]
    rows += [a_row("maze", "window", [-5.0, -4.0], share=0.25, budget=9, score_name="return")]
    rows += [a_row("reacher", "window", [1.0, 2.0], share=0.25, budget=9)]
    rows += [a_row("third", "full", [0.0, 0.0], role="reference"), a_row("third", "window", [0.0, 0.0], share=0.25)]
    found = matrix(rows)
    assert len(found.left_out) == 3
    assert not found.cells
    assert "a return has no zero" in found.left_out[0]
    assert "the full cache was not played" in found.left_out[1]
    assert "the full cache scores 0" in found.left_out[2]


def test_a_line_that_lacks_a_target_has_no_cell_in_that_column() -> None:
    """A mean over other targets than the others' would be compared with theirs."""
    rows = full_rows() + rival_rows("window", *FULL.values())[:1] + rival_rows("keydiff", *FULL.values())
    found = matrix(rows, [CONTROL], RUNS)
    assert found.cell(Line("window", "rival", 0.25), CONTROL) is None
    assert found.cell(Line("keydiff", "rival", 0.25), CONTROL) is not None


def test_a_run_that_has_not_played_every_target_is_not_in_yet() -> None:
    """An experiment may be looked at while it goes on."""
    rows = full_rows() + namm_rows("aa", *FULL.values()) + namm_rows("bb", *FULL.values())[:1]
    cell = matrix(rows, [CONTROL], RUNS).cell(Line("text-v9", "namm", 0.25), CONTROL)
    assert set(cell.by_run) == {"text-v9"}
    rows = full_rows() + namm_rows("aa", *FULL.values())[1:] + namm_rows("bb", *FULL.values())[:1]
    assert matrix(rows, [CONTROL], RUNS).cell(Line("text-v9", "namm", 0.25), CONTROL) is None


def test_settings_that_differ_are_not_pooled_into_one_cell() -> None:
    rows = full_rows() + rival_rows("window", *FULL.values())
    rows += [{**row, "key": f"other {row['key']}"} for row in rival_rows("window", [0] * 4, [0] * 4)]
    found = matrix(rows, [CONTROL], RUNS)
    assert found.cell(Line("window", "rival", 0.25), CONTROL) is None
    assert "several settings" in found.left_out[0]


def test_a_kept_fraction_that_was_given_is_its_own_share() -> None:
    """It has no budget, and must not take the share of a NAMM's row that has none either."""
    rows = full_rows() + namm_rows("aa", *FULL.values()) + rival_rows("window", *FULL.values(), share=None, budget=None)
    for row in rows[-2:]:
        row["identity"]["kept_fraction"] = 0.5
    found = matrix(rows, [CONTROL], RUNS)
    assert Line("window", "rival", 0.5) in found.lines
    assert Line("window", "rival", 0.25) not in found.lines


def test_trials_that_differ_are_compared_on_what_is_shared() -> None:
    rows = full_rows() + namm_rows("aa", [100, 100, 0, 0], FULL["reacher"])
    longer = [a_row("maze", "window", [100, 100, 0, 0, 7, 7], share=0.25, budget=9)]
    longer += [a_row("reacher", "window", FULL["reacher"], share=0.25, budget=9)]
    found = matrix(rows + longer, [CONTROL], RUNS)
    ours, theirs = (found.cell(Line(*at, 0.25), CONTROL) for at in (("text-v9", "namm"), ("window", "rival")))
    assert ours.by_target == theirs.by_target
    assert ours.versus["window"].difference.value == 0.0


def test_pictures_and_tables_hold_every_cell() -> None:
    rows = full_rows() + namm_rows("aa", *FULL.values()) + namm_rows("bb", *FULL.values())
    rows += rival_rows("<b>window</b>", *FULL.values())
    found = matrix(rows, [CONTROL], RUNS)
    page = matrix_tables.html(found)
    assert "<b>window" not in page
    assert "&lt;b&gt;window" in page
    assert page.count("25% kept") == 2
    assert "2 runs" in page
    told = matrix_tables.markdown(found)
    assert "| **text-v9 (2 runs)** | 100.0 [100.0, 100.0] (25%) = |" in told
    drawn = matrix_figures.heat_map(found)
    texts = " ".join(text.get_text() for text in drawn.axes[0].texts)
    assert "100.0 =" in texts
    assert "25%" in texts
    matrix_figures.pareto(found)
