"""`rl.py` from the command line: whole experiments on tiny models, resuming, and every mistake a user can make."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluations.control import cells as control_cells
from evaluations.control import experiment
from evaluations.control.config import NAMES
from evaluations.experiment.names import named, rivals
from evaluations.rl import RLConfig, main
from evaluations.tasks.control.d4rl import Episode
from evaluations.tasks.control.d4rl_files import write_hdf5
from namm.errors import ConfigError, UnknownNameError
from tests.evaluations.control.tiny_control import tiny_decision_transformer, tiny_namm

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints that every test may read and none may change."""
    folder = tmp_path_factory.mktemp("parts")
    maze = {"env_kwargs": {"corridor_steps": 50}, "context_steps": None, "target_return": 1.0}
    return {
        "hopper": tiny_decision_transformer(folder / "hopper"),
        "maze": tiny_decision_transformer(folder / "maze", "ContinuousTMaze-v0", **maze),
        "namm": tiny_namm(folder / "namm"),
    }


@pytest.fixture(autouse=True)
def _pictures_only_where_they_matter(request, monkeypatch):
    """Drawing a report costs more than a tiny experiment; the first test below and test_report.py draw real ones."""
    if request.function is not test_a_whole_experiment_writes_rows_tables_and_a_report:
        monkeypatch.setattr(experiment, "write_page", lambda path, *rest: path)


@pytest.fixture
def command(parts, tmp_path):
    """Builds a short command line; later options win."""

    def build(*options: object, checkpoint: str | None = "hopper") -> list[str]:
        start = [] if checkpoint is None else ["--checkpoint", parts[checkpoint]]
        short = ["--namm", parts["namm"], "--out", tmp_path / "rl", "--wandb", "disabled", "--no-video"]
        small = ["--episodes", 2, "--seeds", 0, 1, "--max-steps", 20]
        return [str(word) for word in (*start, *short, *small, *options)]

    return build


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def untouched(folder: Path) -> bool:
    """Nothing half-written: no rows, no report, no temporary files."""
    return not folder.exists() or not [path for path in folder.rglob("*") if path.is_file()]


# --- what it does ---------------------------------------------------------------------------------------------------


def test_a_whole_experiment_writes_rows_tables_and_a_report(command, tmp_path, capsys):
    assert main(command()) == 0
    rows = rows_of(tmp_path / "rl")
    policies = {row["policy"] for row in rows}
    assert policies == {
        *("native_window", "full", "namm:source", "namm:target", "namm:sequence"),
        *rivals(streams=True),
    }
    assert len(rows) == 2 * len(policies)
    for name in ("report.html", "summary.md", "config.json"):
        assert (tmp_path / "rl" / name).stat().st_size > 100
    output = capsys.readouterr().out
    assert f"[{len(rows)}/{len(rows)}]" in output
    assert "report.html" in output
    reset_seeds = {row["policy"]: [e["reset_seed"] for e in row["episodes"]] for row in rows if row["seed"] == 1}
    assert len({tuple(seeds) for seeds in reset_seeds.values()}) == 1


def test_rows_hold_what_was_measured(command, tmp_path):
    assert main(command("--policy", "full", "namm:sequence", "window", "--max-steps", 60, checkpoint="maze")) == 0
    rows = {row["policy"]: row for row in rows_of(tmp_path / "rl") if row["seed"] == 0}
    full, namm, window = (rows[name]["metrics"] for name in ("full", "namm:sequence", "window"))
    assert full["kept_fraction"] == full["kept_fraction_R"] == full["kept_fraction_a"] == 1.0
    assert full["evicted"] == 0.0
    assert full["slots_mean"] == pytest.approx(np.mean(3 * np.arange(60) + 2))
    assert full["slots_peak"] == 3 * 59 + 2
    # two layers, two heads, head width 8, keys and values, four bytes
    assert full["bytes_mean"] >= full["slots_mean"] * 2 * 2 * 8 * 2 * 4
    assert 0 < namm["kept_fraction"] < 1
    assert namm["evicted"] > 0
    assert namm["state_bytes_mean"] > window["state_bytes_mean"]
    assert window["updates"] == 3
    assert rows["full"]["score_name"] == "success rate"
    assert rows["namm:sequence"]["identity"]["statistics"] == "sequence"
    kept = window["slots_mean"] / np.mean(3 * np.arange(60) + 2)
    assert window["kept_fraction"] == pytest.approx(kept)
    kinds = np.mean([window[f"kept_fraction_{kind}"] for kind in "Rsa"])
    assert kinds == pytest.approx(kept, rel=0.1)  # sampled every few steps, the whole is read at every step


@pytest.mark.slow
def test_rivals_hold_the_size_of_the_best_namm_and_never_less(command, tmp_path):
    options = ("--policy", "namm:source", "namm:target", "window", "random", "--max-steps", 60)
    assert main(command(*options, checkpoint="maze")) == 0
    rows = rows_of(tmp_path / "rl")
    held: dict[str, list[float]] = {}
    for row in rows:
        held.setdefault(row["policy"], []).extend(episode["slots_mean"] for episode in row["episodes"])
    matched = next(row["memory"]["matched_to"] for row in rows if row["policy"] == "window")
    assert matched in ("namm:source", "namm:target")
    asked = np.mean(held[matched])
    for rival in ("window", "random"):
        memory = next(row["memory"] for row in rows if row["policy"] == rival)
        assert memory["asked"] == pytest.approx(asked)
        assert np.mean(held[rival]) == pytest.approx(memory["predicted"])
        assert asked <= np.mean(held[rival]) <= asked + 1.0


def test_target_statistics_are_taken_from_episodes_that_are_never_scored(command, tmp_path, monkeypatch):
    played: list[list[int]] = []
    original = control_cells.ControlRunner._play

    def spy(self, agent, seeds, observer=None):
        played.append(list(seeds))
        return original(self, agent, seeds, observer)

    monkeypatch.setattr(control_cells.ControlRunner, "_play", spy)
    assert main(command("--policy", "namm:target")) == 0
    scored = {e["reset_seed"] for row in rows_of(tmp_path / "rl") for e in row["episodes"]}
    calibrated = [seeds for seeds in played if not set(seeds) <= scored]
    assert len(calibrated) == 1
    assert not set(calibrated[0]) & scored


@pytest.mark.slow
def test_a_size_is_found_on_episodes_that_are_never_scored(command, tmp_path):
    written = ("namm:sequence(keep=0.5)", "keydiff(keep=0.5)")
    assert main(command("--policy", *written, "--max-steps", 60, "--seeds", 0, checkpoint="maze")) == 0
    rows = rows_of(tmp_path / "rl")
    assert {row["policy"] for row in rows} == set(written), "nothing is matched, for all say their size"
    for row in rows:
        assert row["memory"]["sized"]["kept_fraction"] == pytest.approx(0.5, abs=0.1)
        held = np.mean([e["slots_mean"] for e in row["episodes"]])
        seen = np.mean([(3 * e["length"] + 1) / 2 for e in row["episodes"]])
        assert held / seen == pytest.approx(0.5, abs=0.15)
        assert row["memory"]["sized"]["threshold"] != 0.0


def test_policies_by_name():
    chosen = named(["namm", "namm:target", "namm:source", "native_window"], NAMES, streams=True)
    assert [spec.label for spec in chosen] == ["namm:source", "namm:target", "native_window"]
    with pytest.raises(UnknownNameError, match="Did you mean 'h2o'"):
        named(["h20"], NAMES, streams=True)
    with pytest.raises(ConfigError, match="depends on what is done"):
        named(["oracle"], NAMES, streams=True)


def test_explicit_budget_holds_for_every_policy_that_forgets(command, tmp_path):
    assert main(command("--policy", "full", "namm:target", "h2o", "--budget", 9, "--max-steps", 40)) == 0
    budgets = {row["policy"]: row["identity"]["budget"] for row in rows_of(tmp_path / "rl")}
    assert budgets == {"full": None, "namm:target": 9, "h2o": 9}


# --- resuming -------------------------------------------------------------------------------------------------------


def test_a_second_run_plays_nothing_and_a_changed_one_plays_only_what_changed(command, tmp_path, capsys):
    assert main(command("--policy", "full", "window", "--budget", 12)) == 0
    before = (tmp_path / "rl" / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main(command("--policy", "full", "window", "--budget", 12)) == 0
    assert (tmp_path / "rl" / "rows.jsonl").read_bytes() == before
    assert capsys.readouterr().out.count("kept from an earlier run") == 4
    assert main(command("--policy", "full", "window", "--budget", 13)) == 0
    assert capsys.readouterr().out.count("kept from an earlier run") == 2
    assert (tmp_path / "rl" / "rows.jsonl").read_bytes().startswith(before)


def test_ctrl_c_exits_130_keeps_the_rows_and_says_how_to_go_on(command, tmp_path, capsys, monkeypatch):
    original = control_cells.ControlRunner.run

    def interrupted(self, unit, cells):
        if unit.spec.label == "window":
            raise KeyboardInterrupt
        return original(self, unit, cells)

    arguments = command("--policy", "full", "window", "--budget", 12)
    with monkeypatch.context() as patch:
        patch.setattr(control_cells.ControlRunner, "run", interrupted)
        assert main(arguments) == 130
    errors = capsys.readouterr().err
    assert "continue with" in errors
    assert str(tmp_path / "rl") in errors
    assert {row["policy"] for row in rows_of(tmp_path / "rl")} == {"full"}
    assert main(arguments) == 0
    assert {row["policy"] for row in rows_of(tmp_path / "rl")} == {"full", "window"}


@pytest.mark.slow
def test_a_killed_process_loses_at_most_one_policy_and_the_same_command_ends_as_if_never_killed(command, tmp_path):
    policies = ("full", "window", "random", "l2_norm")
    options = ("--policy", *policies, "--budget", 12, "--episodes", 1, "--max-steps", 150, "--seeds", 0)
    whole = command(*options, "--out", tmp_path / "whole", checkpoint="maze")
    assert main(whole) == 0
    arguments = command(*options, checkpoint="maze")
    path = tmp_path / "rl" / "rows.jsonl"
    script = [sys.executable, str(REPOSITORY / "evaluations" / "rl.py"), *arguments]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPOSITORY)
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size == 0:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = rows_of(tmp_path / "rl")
    assert 1 <= len(survived) <= len(policies)
    assert main(arguments) == 0
    resumed, uninterrupted = rows_of(tmp_path / "rl"), rows_of(tmp_path / "whole")
    assert resumed[: len(survived)] == survived
    assert [row["key"] for row in resumed] == [row["key"] for row in uninterrupted]
    assert [row["episodes"] for row in resumed] == [row["episodes"] for row in uninterrupted]


@pytest.mark.slow
def test_simulator_processes_change_no_row(command, tmp_path):
    """A batch of sixteen is played in two lanes either way; who steps the environments must not show."""
    for number in (0, 2):
        options = ("--policy", "native_window", "namm:sequence", "--episodes", 8, "--simulators", number)
        assert main(command(*options, "--out", tmp_path / str(number))) == 0
    here, apart = rows_of(tmp_path / "0"), rows_of(tmp_path / "2")
    assert len(here) == 4
    for row, other in zip(here, apart, strict=True):
        assert row["trace"] is None or len(row["trace"]["slots"]) == row["episodes"][0]["length"]
        for name in ("key", "score", "episodes", "retention", "trace", "memory"):
            assert row[name] == other[name]
        assert row["metrics"] | {"ms_per_env_step": 0} == other["metrics"] | {"ms_per_env_step": 0}


@pytest.mark.parametrize("other", [("--store", "padded"), pytest.param(("--lanes", 1), marks=pytest.mark.slow)])
def test_what_rounds_otherwise_is_another_row_with_the_same_memory(command, tmp_path, other):
    """Sixteen episodes at once in place of eight twice, kept and newest tokens in one product: the same is kept."""
    for name, more in (("usual", ()), ("other", other)):
        options = ("--policy", "window", "--budget", 12, "--episodes", 8, "--max-steps", 20, *more)
        assert main(command(*options, "--out", tmp_path / name)) == 0
    one, two = rows_of(tmp_path / "other"), rows_of(tmp_path / "usual")
    assert len(one) == len(two) == 2
    for row, other in zip(one, two, strict=True):
        assert row["key"] != other["key"]
        assert [e["slots_mean"] for e in row["episodes"]] == [e["slots_mean"] for e in other["episodes"]]
        returns = [[e["return"] for e in r["episodes"]] for r in (row, other)]
        assert returns[0] == pytest.approx(returns[1], rel=1e-2)


def test_the_written_configuration_can_be_passed_back(command, tmp_path, capsys):
    assert main(command("--policy", "full", "--interval", 64)) == 0
    capsys.readouterr()
    assert main(["--config", str(tmp_path / "rl" / "config.json")]) == 0
    assert capsys.readouterr().out.count("kept from an earlier run") == 2
    (tmp_path / "odd.json").write_text('{"intervall": 48}')
    assert main(["--config", str(tmp_path / "odd.json")]) == 2
    assert "interval" in capsys.readouterr().err


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "h20"), "Did you mean 'h2o'"),
        (("--policy", "namm:targt"), "Did you mean 'namm:target'"),
        (("--policy", "namm:sequence(keep=25)"), "between 0 and 1"),
        (("--policy", "namm:sequence(keep=0.2,threshold=1.0)"), "without a threshold"),
        (("--policy", "adakv(keep=0.2)", "--budget", "20"), "no option 'keep'"),
        (("--env", "Hoper-v5"), "Did you mean 'Hopper-v5'"),
        (("--suite", "d4rl"), "drop --suite"),
        (("--interval", "50"), "16"),
        (("--budget", "5"), "protected"),
        (("--budget", "2", "--policy", "window"), "protected"),
        (("--policy", "window"), "--budget"),
        (("--match", "namm:souce"), "Did you mean 'namm:source'"),
        (("--device", "cudda"), "device"),
        (("--episodes", "0"), "--episodes"),
        (("--seeds", "1", "1"), "--seeds"),
        (("--workers", "0"), "--workers must be 1 or more"),
        (("--lanes", "3"), "1 or 2 lanes, found 3"),
        (("--threads", "0"), "--threads must be 1 or more"),
        (("--curve", "-1"), "--curve must be 0 or more"),
        (("--curve", "5", "--policy", "namm", "window"), "needs full"),
        (("--curve", "5", "--curve-seeds", "0", "7"), "some of --seeds ([0, 1]), found [0, 7]"),
        (("--namm", "/nowhere/namm"), "/nowhere/namm"),
        (("--dataset", "/nowhere/data.hdf5"), "/nowhere/data.hdf5"),
        (("--dataset", "no-such-minari-set-v0"), "no-such-minari-set-v0"),
    ],
)
def test_a_wrong_option_is_one_clear_message_and_exit_code_2(command, tmp_path, capsys, options, said):
    assert main(command(*options)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert said in errors
    assert "Traceback" not in errors
    assert untouched(tmp_path / "rl")


def test_an_option_that_does_not_exist_is_refused_by_the_parser(command, capsys):
    assert main(command("--polcy", "full")) == 2
    assert "--policy" in capsys.readouterr().err
    assert main(command("--store", "pading")) == 2
    assert "padded" in capsys.readouterr().err


def test_debug_mode_shows_where_an_error_comes_from(command, monkeypatch):
    monkeypatch.setenv("NAMM_DEBUG", "1")
    with pytest.raises(UnknownNameError):
        main(command("--policy", "h20"))


def test_an_unknown_checkpoint_names_what_lies_beside_it(command, parts, capsys):
    wrong = parts["hopper"].with_name("hoper")
    assert main(["--checkpoint", str(wrong), *command(checkpoint=None)]) == 2
    errors = capsys.readouterr().err
    assert "hoper" in errors
    assert "hopper" in errors


def test_a_model_that_does_not_fit_the_environment_is_refused(command, capsys, tmp_path):
    assert main(command("--env", "HalfCheetah-v5")) == 2
    errors = capsys.readouterr().err
    assert "state_dim" in errors
    assert "17" in errors
    assert untouched(tmp_path / "rl")


@pytest.mark.parametrize("which", ["hopper", "namm"])
@pytest.mark.parametrize("damage", ["truncated", "nan"])
def test_damaged_weights_are_refused(command, parts, tmp_path, capsys, which, damage):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in parts[which].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        tensors = load_file(weights)
        name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
        tensors[name].view(-1)[0] = torch.nan
        save_file(tensors, weights)
    options = ("--namm", folder) if which == "namm" else ()
    source = [] if which == "namm" else ["--checkpoint", str(folder)]
    assert main([*source, *command(*options, checkpoint="hopper" if which == "namm" else None)]) == 2
    errors = capsys.readouterr().err
    assert str(weights) in errors
    assert ("NaN" in errors) == (damage == "nan")
    assert untouched(tmp_path / "rl")


@pytest.mark.parametrize("damage", ["truncated", "nan"])
def test_damaged_datasets_are_refused(command, tmp_path, capsys, damage):
    generator = np.random.default_rng(0)
    states = generator.normal(size=(60, 11)).astype(np.float32)
    if damage == "nan":
        states[3, 2] = np.nan
    actions, rewards = generator.normal(size=(60, 3)).astype(np.float32), np.ones(60, dtype=np.float32)
    path = tmp_path / "data.hdf5"
    write_hdf5(path, [Episode(states, actions, rewards, states[-1], terminated=True)])
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    assert main(command("--dataset", path)) == 2
    assert str(path) in capsys.readouterr().err
    assert untouched(tmp_path / "rl")


def test_a_dataset_gives_the_state_statistics(command, tmp_path):
    states = np.random.default_rng(0).normal(2.0, 3.0, size=(60, 11)).astype(np.float32)
    episode = Episode(states, np.zeros((60, 3), np.float32), np.ones(60, np.float32), states[-1], terminated=True)
    write_hdf5(tmp_path / "data.hdf5", [episode])
    assert main(command("--policy", "full", "--dataset", tmp_path / "data.hdf5")) == 0
    facts = rows_of(tmp_path / "rl")[0]["identity"]["facts"]
    assert facts["state_mean"] == pytest.approx(states.mean(0).tolist(), abs=1e-4)


def test_an_unwritable_folder_is_refused_before_any_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(command("--out", tmp_path / "file" / "rl")) == 2
    assert "--out" in capsys.readouterr().err


def test_a_damaged_last_line_costs_one_row_and_is_said(command, tmp_path, capsys):
    arguments = command("--policy", "full", "window", "--budget", 12)
    assert main(arguments) == 0
    path = tmp_path / "rl" / "rows.jsonl"
    rows = rows_of(tmp_path / "rl")
    path.write_bytes(path.read_bytes()[:-40])
    capsys.readouterr()
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "rows.damaged" in output
    assert output.count("kept from an earlier run") == 3
    assert [row["key"] for row in rows_of(tmp_path / "rl")] == [row["key"] for row in rows]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:50], *lines[1:]]) + "\n")
    assert main(arguments) == 2
    assert "line 1 of 4" in capsys.readouterr().err


def test_defaults_name_what_is_shipped():
    config = RLConfig()
    assert config.namm.parts[-3:] == ("checkpoints", "namm", "text-v2")
    assert config.interval == 48
