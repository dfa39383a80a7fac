"""The dashboard: the same panels in W&B and on a page, every number from the rows, nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluations.analysis.matrix import matrix
from evaluations.boards.experiments import read_experiments
from evaluations.boards.page_data import page_data
from evaluations.boards.panels import sections_of
from evaluations.boards.run_content import run_content
from evaluations.boards.workspace import workspace
from evaluations.dashboard import main
from evaluations.rows.trials import described, registered
from namm.errors import MissingExtraError
from tests.evaluations.rows.made_up_rows import POLICIES, made_up_rows, made_up_text_rows

CELLS = 2 * (len(POLICIES) + 2)
"""Of the folder below: two targets, each with all policies and two points of a curve."""
SECTIONS = sections_of([described("control")])
PANELS = [panel for _, panels in SECTIONS for panel in panels]


def write(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.json").write_text(json.dumps({"suite": ["memory"]}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rows = [*made_up_rows(), *made_up_rows("tmaze-150", binary=True, episodes=8)]
    curve = [
        {**row, "key": row["key"] + str(budget), "memory": {**row["memory"], "role": "curve"}}
        | {"identity": {**row["identity"], "budget": budget}}
        for row in rows
        for budget in (16, 32)
        if row["policy"] == "window"
    ]
    return write(tmp_path_factory.mktemp("dashboard") / "rl", rows + curve)


@pytest.fixture(scope="module")
def page(folder) -> str:
    assert main([str(folder)]) == 0
    return (folder / "dashboard.html").read_text()


def test_every_panel_shows_something_that_runs_log():
    """A name that no run has would be an empty panel."""
    row = next(row for row in made_up_rows("tmaze-150", binary=True) if row["trace"])
    row["metrics"] |= {"cue_held": 0.5}
    content = run_content(row, "rl", {})
    logged = {name for entry in content.history for name in entry}
    for panel in PANELS:
        names = [*panel.y, *([panel.x] if panel.x else [])]
        if panel.kind in ("bars", "scatter"):
            assert set(names) <= set(content.summary), panel.title
        elif panel.kind in ("lines", "trials"):
            assert set(names) <= logged, panel.title
        else:
            known = ("memory", "video", "episodes", "matrix")  # what is logged beside the numbers
            assert names[0] in known, panel.title


def test_the_workspace_has_all_panels_in_order_and_groups_by_target_and_policy():
    pytest.importorskip("wandb_workspaces")
    view = json.loads(workspace("team", "project", group="memory")._to_model().model_dump_json(by_alias=True))
    section = view["spec"]["section"]
    shown = section["panelBankConfig"]["sections"]
    every = sections_of(list(registered().values()))
    assert [part["name"] for part in shown] == [title for title, _ in every]
    configs = [panel["config"] for part in shown for panel in part["panels"]]
    panels = [panel for _, several in every for panel in several]
    *panels, table = panels
    assert {"episodes", "prompts"} <= set(table.y)
    for key, config in zip(table.y, configs[len(panels) :], strict=True):
        assert f'"{key}"' in json.dumps(config)
    assert panels[0].kind == "matrix"
    assert '"matrix"' in json.dumps(configs[0])
    for panel, config in zip(panels[1:], configs[1 : len(panels)], strict=True):
        assert config["chartTitle"] == panel.title
        if panel.kind in ("lines", "trials"):
            assert (config["xAxis"], config["metrics"]) == (panel.x, list(panel.y))
        elif panel.kind == "bars":
            assert (config["metrics"], config["groupBy"]) == (list(panel.y), "policy.value")
        elif panel.kind == "scatter":
            assert (config["xAxis"], config["yAxis"]) == (f"summary:{panel.x}", f"summary:{panel.y[0]}")
        else:
            assert config["mediaKeys"] == list(panel.y)
    runs = section["runSets"][0]
    assert [group["name"] for group in runs["grouping"]] == ["target.value", "policy.value"]
    assert runs["filters"]["filters"][0]["value"] == "memory"


def test_without_the_package_the_install_line_is_printed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        workspace("team", "project")
    assert main(["--wandb", "--entity", "team"]) == 2
    assert "pip install 'namm-suite[dashboard]'" in capsys.readouterr().err
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    assert main(["--wandb"]) == 2
    assert "--entity" in capsys.readouterr().err


def test_numbers_on_the_page_are_those_of_the_rows(page, folder):
    data = json.loads(re.search(r"<script id='data' type='application/json'>(.*?)</script>", page).group(1))
    (experiment,) = read_experiments([folder])
    assert len(data["cells"]) == CELLS
    for cell in data["cells"]:
        rows = [
            row
            for row in experiment.rows
            if (row["target"], row["policy"]) == (cell["target"], cell["policy"])
            and (row["memory"].get("role") == "curve") == (cell["size"] == "curve")
            and row["identity"]["budget"] == cell["budget"]
        ]
        scores = [episode["score"] for row in rows for episode in row["episodes"]]
        assert cell["numbers"]["score"][0] == pytest.approx(np.mean(scores))
        value, low, high = cell["numbers"]["score"]
        assert low <= value <= high
        assert cell["numbers"]["bytes_peak"] == [pytest.approx(np.mean([r["metrics"]["bytes_peak"] for r in rows]))]
        assert cell["spread"]["episode/return"] == [e["return"] for row in rows for e in row["episodes"]]
        assert (cell["seeds"], cell["trials"]) == (3, len(scores))
        kept = np.mean([row["retention"]["kinds"]["s"] for row in rows], axis=0)
        assert cell["lines"]["retention/s"]["y"] == pytest.approx(kept, abs=1e-4)
        heads = np.mean([np.array(row["retention"]["heads"]).reshape(6, -1) for row in rows], axis=0)
        assert np.array(cell["heads"]["values"]) == pytest.approx(heads, abs=1e-3)
        assert ("cue/held" in cell["lines"]) == (cell["target"] == "tmaze-150")
        assert cell["suite"] == ("memory" if cell["target"] == "tmaze-150" else "none")


def test_the_page_fetches_nothing(page):
    outside = page[: page.index("<script>")] + page[page.index("<script id='data'") :]  # without the drawing library
    assert not re.search(r"""(?:src|href)=["'](?!data:)|@import|url\(|https?://(?!www\.w3\.org)""", outside)
    assert "plotly" in page


def test_several_folders_are_told_apart_and_a_running_one_can_be_shown(folder, tmp_path):
    other = write(tmp_path / "a" / "rl", made_up_rows(seeds=1))
    third = write(tmp_path / "b", made_up_rows(seeds=1))
    with (other / "rows.jsonl").open("a") as stream:
        stream.write('{"key": "half')
    assert main([str(folder), str(other), str(third), "--out", str(tmp_path / "both.html")]) == 0
    found = read_experiments([folder, other, third])
    assert [experiment.name for experiment in found] == [f"{folder.parent.name}/rl", "a/rl", "b"]
    assert len(found[1].rows) == len(POLICIES)
    assert len(page_data(found, 0)["cells"]) == CELLS + 2 * len(POLICIES)


def test_a_single_episode_has_no_interval_and_the_page_can_still_be_read(tmp_path):
    folder = write(tmp_path / "one", made_up_rows(seeds=1, episodes=1))
    assert main([str(folder)]) == 0
    found = re.search(
        r"<script id='data' type='application/json'>(.*?)</script>", (folder / "dashboard.html").read_text()
    )
    data = json.loads(found.group(1), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert all(len(cell["numbers"]["score"]) == 1 for cell in data["cells"])


def test_videos_are_put_in_up_to_a_number_and_those_of_namm_first(folder):
    rows = [row for row in read_experiments([folder])[0].rows if row["trace"]]
    (folder / "media").mkdir(exist_ok=True)
    for row in rows:
        (folder / "media" / f"x-{row['key']}.gif").write_bytes(b"GIF89a")
    data = page_data(read_experiments([folder]), most_videos=3)
    shown = [cell for cell in data["cells"] if "video" in cell["media"]]
    assert [cell["family"] for cell in shown] == ["namm"] * 3
    left_out = len(rows) - 3
    assert data["left_out"] == [f"{left_out} films and pictures are not in this page; --videos says how many may be."]
    assert shown[0]["media"]["video"].startswith("data:image/gif;base64,")
    shutil.rmtree(folder / "media")


def test_mistakes_are_one_message_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "found none at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "rows.jsonl" in capsys.readouterr().err
    folder = write(tmp_path / "damaged", made_up_rows(seeds=1))
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("\n".join(["{half", *lines]) + "\n")
    (found,) = read_experiments([folder])
    assert len(found.rows) == len(POLICIES)
    assert found.remarks == (f"{folder / 'rows.jsonl'}: line 1 left out: no JSON object.",)


def test_the_matrix_is_that_of_the_analysis_and_every_cell_leads_to_its_rows(folder):
    (experiment,) = read_experiments([folder])
    data = page_data([experiment], 0)
    (view,) = data["matrices"]
    found = matrix([row for row in experiment.rows if row["memory"].get("role") != "curve"])
    assert len(view["cells"]) == len(found.cells) == 2 * len(POLICIES)
    for cell in view["cells"]:
        line = next(line for line in found.lines if line.name == cell["line"])
        estimate = found.cells[line, cell["column"]].relative
        assert cell["relative"] == [estimate.value, estimate.low, estimate.high]
        (place,) = cell["cells"]
        shown = data["cells"][place]
        assert (shown["policy"], shown["target"]) == (cell["line"], cell["column"])
        assert shown["size"] != "curve"
        assert (line.kind == "namm") == ("full" in [told["name"] for told in cell["against"]])
    assert view["left_out"] == []


def test_a_transfer_experiment_has_its_own_columns_and_a_line_for_the_runs_of_a_recipe(tmp_path):
    """Sizes are part of the names: the same NAMM at two sizes must not become one mean."""
    rows = []
    for target in ("tmaze-150", "umaze"):
        for row in made_up_rows(target, seeds=1, binary=True):
            if row["policy"] in ("full", "native_window"):
                rows.append(row)
                continue
            digests = ("a" * 64, "b" * 64) if row["policy"] == "namm:source" else (None,)
            for digest in digests if row["policy"] != "namm:target" else ():
                for share, budget in ((0.25, 48), (0.1, 19)):
                    identity = {**row["identity"], "namm_sha256": digest, "budget": budget}
                    role = "free" if digest else "given"  # a NAMM that ranks, to a share that its options name
                    memory = {**row["memory"], "role": role, "share": share}
                    key = f"{row['key']}{budget}{digest}"
                    rows.append({**row, "key": key, "identity": identity, "memory": memory})
    folder = write(tmp_path / "transfer", rows)
    settings = {
        "columns": [{"name": "memory", "title": "control: memory", "targets": ["tmaze-150", "umaze"]}],
        "lines": {"text-v3": {"text-v3": "a" * 64, "text-v3-seed1": "b" * 64}},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    data = page_data(read_experiments([folder]), 0)
    (view,) = data["matrices"]
    assert [column["title"] for column in view["columns"]] == ["control: memory"]
    cells = {cell["line"]: cell for cell in view["cells"]}
    assert {"full", "native_window", "text-v3 at 25%", "text-v3 at 10%", "window at 25%"} <= set(cells)
    assert set(cells["text-v3 at 10%"]["runs"]) == {"text-v3", "text-v3-seed1"}
    assert set(cells["text-v3 at 10%"]["targets"]) == {"tmaze-150", "umaze"}
    behind = [told["line"] for told in cells["text-v3 at 10%"]["against"]]
    assert behind[1:] == ["full"]
    assert behind[0].endswith(" at 10%")
    opened = [data["cells"][place] for place in cells["text-v3 at 10%"]["cells"]]
    assert {cell["policy"] for cell in opened} == {"text-v3 at 10%", "text-v3-seed1 at 10%"}
    assert {cell["size"] for cell in opened} == {"10% of the tokens"}


def test_without_a_full_cache_the_scores_are_shown_as_they_were_measured(tmp_path):
    rows = [row for row in made_up_rows(seeds=2) if row["policy"] in ("window", "random")]
    (view,) = page_data(read_experiments([write(tmp_path / "rl", rows)]), 0)["matrices"]
    assert view["left_out"] == ["hopper: the full cache was not played"]
    window = next(cell for cell in view["cells"] if cell["line"] == "window")
    assert window["relative"] is None
    assert window["score"] == pytest.approx(np.mean([row["score"] for row in rows if row["policy"] == "window"]))


def test_rows_that_do_not_say_what_was_kept_have_a_matrix_all_the_same(tmp_path):
    rows = made_up_rows(seeds=2)
    for row in rows:
        del row["metrics"]["kept_fraction"]
    (view,) = page_data(read_experiments([write(tmp_path / "rl", rows)]), 0)["matrices"]
    assert {cell["kept"] for cell in view["cells"]} == {None}
    assert all(cell["relative"] for cell in view["cells"])


def test_one_cell_that_cannot_be_shown_costs_a_line(tmp_path):
    rows = made_up_rows(seeds=1)
    rows[2] = {**rows[2], "retention": {"heads": [["no number"]], "age_edges": [0]}}
    rows[3] = {**rows[3], "trace": {"steps": [1, 2], "slots": [1]}}
    data = page_data(read_experiments([write(tmp_path / "rl", rows)]), 0)
    assert len(data["cells"]) == len(POLICIES) - 2
    remarks = data["matrices"][0]["remarks"]
    assert [remark.partition(" is not shown")[0] for remark in remarks] == [
        f"{tmp_path / 'rl'}: {policy} on hopper" for policy in ("window", "random")
    ]


def test_examples_are_markup_of_ours_only_and_a_damaged_one_costs_itself(tmp_path):
    rows = made_up_text_rows(seeds=1)
    rows[1]["trace"]["kept"] = "no base64"
    cells = page_data(read_experiments([write(tmp_path / "text", rows)]), 0)["cells"]
    shown = {cell["policy"]: cell["example"] for cell in cells}
    assert "&lt;b&gt;salt&lt;/b&gt;" in shown["full"].replace("</span>", "").replace("<span class='k0'>", "")
    assert "what is &lt;i&gt;lost&lt;/i&gt;?" in shown["full"]
    assert "could not be drawn" in shown[rows[1]["policy"]]
