"""The dashboard: the same panels in W&B and on a page, every number from the rows, nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluations.boards.experiments import read_experiments
from evaluations.boards.local_page import cells
from evaluations.boards.panels import sections_of
from evaluations.boards.run_content import run_content
from evaluations.boards.workspace import workspace
from evaluations.dashboard import main
from evaluations.rows.trials import described, registered
from namm.errors import MissingExtraError
from tests.evaluations.rows.made_up_rows import POLICIES, made_up_rows

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
            assert names[0] in ("memory", "video", "episodes"), panel.title  # what Tracker logs beside the numbers


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
    for panel, config in zip(panels, configs[: len(panels)], strict=True):
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
            and (row["memory"].get("role") == "curve") == (cell["role"] == "curve")
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
    assert len(cells(found, 0)) == CELLS + 2 * len(POLICIES)


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
    shown = [cell for cell in cells(read_experiments([folder]), most_videos=3) if cell["video"]]
    assert [cell["family"] for cell in shown] == ["namm"] * 3
    assert shown[0]["video"].startswith("data:image/gif;base64,")
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize(("address", "panels"), [("target=hopper&by=policy", 12), ("target=all&by=target", 14)])
def test_a_browser_draws_all_panels_without_an_error(page, folder, tmp_path, address, panels):
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
        *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"),
        f"file://{folder / 'dashboard.html'}#{address}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "Uncaught" not in done.stderr
    body = done.stdout[done.stdout.index("<main") :]
    assert body.count("<h3>") == panels
    assert body.count("js-plotly-plot") == panels - 1  # the last one is the table
    targets = 2 if "all" in address else 1
    table = body[body.index("<table") : body.index("</table>")]
    assert table.count("<tr") == 1 + targets * CELLS / 2
