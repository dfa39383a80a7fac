"""`namm-sync`: whatever happened to the mirror, rows make it anew; NAMMs join who made them and who uses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from evaluations import sync
from evaluations.analysis.matrix import matrix
from evaluations.boards.run_content import run_content, run_id
from evaluations.boards.wandb_package import DELETED
from evaluations.boards.wandb_runs import Tracker
from evaluations.evolution.tracking import EvolutionTracker
from evaluations.rows.identity import experiment_identity
from namm import NAMM, NAMMConfig
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionConfig, FitnessReport, evolve
from tests.evaluations.boards.offline_runs import id_of, inspect, records
from tests.evaluations.rows.made_up_rows import made_up_rows


def write(folder: Path, rows: list[dict], more: str = "", **settings) -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + more)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def rows_of(*policies: str, seeds: int = 1) -> list[dict]:
    return [row for row in made_up_rows(seeds=seeds) if row["policy"] in policies]


def synced(folder: Path) -> list[str]:
    """Runs of rows, without that of the matrix."""
    runs = map(str, (folder / "synced" / "wandb").glob("offline-run-*"))
    other = run_id(experiment_identity(folder), "matrix")
    return sorted(run for run in runs if id_of(run) != other)


@pytest.fixture(scope="module")
def namm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("namm") / "mine"
    NAMM(NAMMConfig()).save_pretrained(folder)
    (folder / "README.md").write_text("a card that was added later")
    return folder


def artifact_of(folder: str) -> dict:
    (found,) = (r["artifact"] for r in records(folder) if r["type"] == "artifact" and r["artifact"]["type"] == "model")
    return found


@pytest.mark.slow
def test_an_interrupted_and_rescored_mirror_becomes_one_clean_run_a_row(tmp_path, namm, capsys):
    rows = rows_of("namm:target", "window")
    digest = NAMM.from_pretrained(namm).sha256()
    rows[1]["identity"]["namm_sha256"] = digest
    folder = write(tmp_path / "results" / "rl", rows, namm=["text-v2", "no-such", str(namm)])
    with Tracker("offline", folder) as tracker:
        tracker.mirror(rows[:1])
        tracker.mirror([{**rows[0], "rescored": True, "score": 1.0}])  # the same id again, offline
    assert len({id_of(path) for path in (folder / "wandb").glob("offline-run-*")}) == 1
    assert sync.main([str(tmp_path / "results")]) == 0
    assert sync.main([str(tmp_path / "results")]) == 0  # takes the place of the first replay
    runs = synced(folder)
    identity = experiment_identity(folder)
    assert {id_of(run) for run in runs} == {run_content(row, "rl", {}, identity).id for row in rows}
    assert len(runs) == len(rows)
    scores = {}
    for run in runs:
        steps = [r["history"]["item"]["_step"] for r in records(run) if r["type"] == "history"]
        assert steps == list(range(len(steps)))
        told = json.loads(inspect(run, "--summary"))
        assert told["exit_code"] == 0
        scores[told["config"]["policy"]] = told["summary"]["score"]
        if told["config"]["policy"] == "namm:target":
            assert artifact_of(run)["name"] == f"namm-{digest[:16]}"
    assert scores == {row["policy"]: row["score"] for row in rows}
    assert Tracker("offline", folder).is_tracked(rows)  # the experiment does not mirror them a second time
    said = capsys.readouterr().out
    assert "3 of 3 runs wait offline; upload them with: wandb sync" in said


def test_the_matrix_is_a_table_of_a_run_of_its_own(tmp_path):
    rows = rows_of("namm:target", "window", "random", "full", seeds=2)
    folder = write(tmp_path / "rl", rows)
    assert sync.main([str(folder)]) == 0
    identity = run_id(experiment_identity(folder), "matrix")
    (run,) = (path for path in (folder / "synced" / "wandb").glob("offline-run-*") if id_of(path) == identity)
    told = json.loads(inspect(str(run), "--summary"))
    assert told["name"] == "rl-matrix"
    table = json.loads((run / "files" / told["summary"]["matrix"]["path"]).read_text())
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    expected = {line.name: cell for (line, _), cell in matrix(rows).cells.items()}
    assert {line["line"] for line in lines} == set(expected)
    for line in lines:
        cell = expected[line["line"]]
        assert (line["percent_of_full"], line["kept"]) == (cell.relative.value, cell.kept)
        assert (line["verdict"] is None) == (line["kind"] != "namm")


def test_a_copy_has_the_ids_of_its_original_until_it_is_made_another_experiment(tmp_path):
    folder = write(tmp_path / "rl", rows_of("window"))
    assert sync.main([str(folder)]) == 0
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    ids = [id_of(synced(folder)[0])]
    for options in ([], ["--fresh"], []):
        assert sync.main([str(copy), *options]) == 0
        ids.append(id_of(synced(copy)[0]))
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_an_evolution_and_its_evaluation_name_one_version_of_one_artifact(tmp_path, namm):
    """Also where somebody has put a card beside the NAMM: its digest is of what it computes."""
    made = tmp_path / "evolution" / "namm"
    shutil.copytree(namm, made, ignore=shutil.ignore_patterns("README.md"))
    with EvolutionTracker("offline", tmp_path / "evolution", {}, ()) as tracker:
        tracker.log_namm(made, 7, ["deployed"], 0.5)
        assert tracker.active
    (evolution,) = (tmp_path / "evolution" / "wandb").glob("offline-run-*")
    rows = rows_of("namm:target")
    rows[0]["identity"]["namm_sha256"] = digest = NAMM.from_pretrained(namm).sha256()
    (tmp_path / "rl").mkdir()
    with Tracker("offline", tmp_path / "rl", {}, {digest: namm}) as tracker:
        (evaluation,) = tracker.mirror(rows)
    logged, used = artifact_of(str(evolution)), artifact_of(evaluation)
    assert logged["name"] == used["name"] == f"namm-{digest[:16]}"
    assert logged["digest"] == used["digest"]
    assert (logged.get("use_after_commit"), used["use_after_commit"]) == (None, True)
    assert {"generation-0007", "deployed"} <= set(logged["aliases"])


def test_a_continued_evolution_is_replayed_as_one_run(tmp_path, capsys):
    def fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        return FitnessReport(candidates.sum(1))

    folder = tmp_path / "mine"
    folder.mkdir()
    for generations in (1, 3):  # continued once, offline: a second part
        config = EvolutionConfig(generations=generations, part=None, search=CMAESConfig(population=6))
        with EvolutionTracker("offline", folder, {}, read_rows(folder)) as tracker:
            evolve(fitness, torch.zeros(5), config, folder, callback=lambda row, _, to=tracker: to.log(row))
    NAMM(NAMMConfig()).save_pretrained(folder / "namm")
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 2
    assert sync.main([str(tmp_path)]) == 0
    (run,) = synced(folder)
    history = [r["history"]["item"] for r in records(run) if r["type"] == "history"]
    assert [entry["evolution/generation"] for entry in history] == [1, 2, 3]
    assert [entry["_step"] for entry in history] == [0, 1, 2]
    assert id_of(run) == experiment_identity(folder)
    assert artifact_of(run)["name"] == f"namm-{NAMM.from_pretrained(folder / 'namm').sha256()[:16]}"
    (folder / "history.jsonl").write_text("{half\n{}\n")
    assert sync.main([str(tmp_path)]) == 1
    assert "history.jsonl" in capsys.readouterr().out


def test_damage_costs_a_line_and_the_other_rows_are_there(tmp_path, capsys):
    rows = rows_of("window", "random")
    damaged = [
        "{half", "[]", json.dumps({**rows[0], "key": "a", "score": 10**400}), json.dumps({**rows[0], "episodes": []}),
        json.dumps({"key": "b"}), json.dumps({**rows[0], "key": "c", "episodes": None}),
    ]  # fmt: skip
    strange = {key: value for key, value in rows[0].items() if key != "episodes"} | {"key": "d", "sniffs": [{}]}
    damaged.append(json.dumps({**strange, "identity": {"modality": "smell"}}))
    damaged.append(json.dumps({**rows[0], "key": "e", "identity": {"modality": ["smell"]}}))
    folder = write(tmp_path / "rl", rows, "\n".join(damaged) + '\n{"key": "being written')
    assert sync.main([str(folder)]) == 0
    assert len(synced(folder)) == 2
    said = capsys.readouterr().out
    for line in (
        "lines 3, 4 left out: no JSON object", "line 5 left out: a row without a score",
        "lines 6, 8 left out: a row without episodes", "line 7 left out: a row without target, task",
        "line 9 left out: a row of the modality 'smell'", "line 10 left out: a row of the modality ['smell']",
    ):  # fmt: skip
        assert line in said
    assert "being written" not in said


def test_a_run_that_w_and_b_refuses_is_told_and_the_exit_code_says_it(tmp_path, monkeypatch, capsys):
    import wandb

    init = wandb.init
    rows = rows_of("window", "random")
    folder = write(tmp_path / "rl", rows)

    def refused(**options):
        if "random" in options["name"]:
            raise wandb.errors.CommError("no")
        return init(**options)

    monkeypatch.setattr(wandb, "init", refused)
    assert sync.main([str(folder)]) == 1
    told = capsys.readouterr()
    assert "2 of 3 runs wait offline" in told.out
    assert "hopper · random · seed 0 is not mirrored (CommError: no)" in told.out
    assert "1 that could not be made" in told.err


def test_deleted_runs_of_an_evolution_get_the_next_id(tmp_path, monkeypatch):
    import wandb

    init, ids = wandb.init, []

    def deleted(**options):
        ids.append(options["id"])
        if "-" not in options["id"]:
            raise wandb.errors.CommError(f"run was {DELETED}; try a new run name")
        return init(**options)

    monkeypatch.setattr(wandb, "init", deleted)
    with EvolutionTracker("offline", tmp_path, {}, ()) as tracker:
        assert tracker.active
    assert ids == [experiment_identity(tmp_path), f"{experiment_identity(tmp_path)}-2"]
    assert json.loads((tmp_path / "tracked.json").read_text())["id"] == ids[1]


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["."], [".", "--wandb", "disabled"]])
def test_mistakes_are_one_message(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sync.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
