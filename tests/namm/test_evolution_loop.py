"""The generation loop: what it records, and that a run killed anywhere continues as if it had not been."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from namm.errors import CheckpointError, ConfigError, NammError, StorageError
from namm.evolution import checkpoint
from namm.evolution.checkpoint import load_state
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.history import read_rows
from namm.evolution.loop import (
    FLAT,
    EvolutionConfig,
    EvolutionResult,
    FitnessReport,
    ValidationReport,
    evolve,
    generation_seed,
)

PARAMS = 9
CONFIG = EvolutionConfig(
    generations=8, seed=4, validate_every=3, search=CMAESConfig(population=6, sigma=0.3, decompose_every=3)
)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def noisy_fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
    noise = torch.randn(PARAMS, generator=torch.Generator().manual_seed(seed))
    fitness = -(candidates - 1 + 0.1 * noise).square().sum(1)
    if generation == 2:
        fitness[1] = -math.inf
    return FitnessReport(fitness, {"kept": candidates.mean(), "candidate_zero": fitness[0], "generation": generation})


def validate(mean: torch.Tensor, generation: int) -> ValidationReport:
    """Best in the middle of the run, so that the best mean is not the last."""
    return ValidationReport(-abs(generation - 6.0), {"norm": mean.norm()})


def run(folder: Path, fitness=noisy_fitness, config: EvolutionConfig = CONFIG, callback=None) -> EvolutionResult:
    return evolve(fitness, torch.zeros(PARAMS), config, folder, validate=validate, callback=callback)


def rows_without_seconds(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder)]


def assert_same_run(folder: Path, reference: Path) -> None:
    assert rows_without_seconds(folder) == rows_without_seconds(reference)
    tensors, scalars = load_state(folder)
    reference_tensors, reference_scalars = load_state(reference)
    assert {**scalars, "settings": None} == {**reference_scalars, "settings": None}
    assert tensors.keys() == reference_tensors.keys()
    assert all(torch.equal(tensors[name], reference_tensors[name]) for name in tensors)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "history.jsonl", "state-000008.safetensors", "state.json"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("evolution") / "reference"
    run(folder)
    return folder


def test_rows_and_result(reference: Path):
    rows = read_rows(reference)
    assert [row["generation"] for row in rows] == list(range(1, 9))
    assert [row["failed"] for row in rows] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert [row["validation"] and row["validation"]["score"] for row in rows] == [
        None,
        None,
        -3,
        None,
        None,
        0,
        None,
        -2,
    ]
    assert rows[7]["validation"]["best"] == 0
    assert {"sigma", "axis_ratio", "path_sigma_norm", "path_c_norm", "step_norm"} <= rows[0]["search"].keys()
    assert rows[0]["extras"].keys() == {"kept", "candidate_zero", "generation"}
    assert all(row["seconds"] > 0 and math.isfinite(row["fitness"]["min"]) for row in rows)
    assert rows[-1]["fitness"]["mean"] > rows[0]["fitness"]["mean"]

    result = EvolutionResult.load(reference)
    assert (result.generation, result.best_generation, result.best_score) == (8, 6, 0)
    assert result.mean.dtype == result.best_mean.dtype == torch.float32
    assert float(result.best_mean.norm()) == pytest.approx(rows[5]["validation"]["extras"]["norm"])
    assert float(result.mean.norm()) == pytest.approx(rows[7]["validation"]["extras"]["norm"])
    assert json.loads((reference / "config.json").read_text())["search"]["population"] == 6


def test_without_validation_the_last_mean_is_the_best(tmp_path: Path):
    result = evolve(noisy_fitness, torch.zeros(PARAMS), CONFIG, tmp_path)
    assert (result.best_score, result.best_generation) == (None, 8)
    assert torch.equal(result.mean, result.best_mean)


def test_nan_validation_is_never_the_best(tmp_path: Path):
    def nan_at_first(mean: torch.Tensor, generation: int) -> ValidationReport:
        return ValidationReport(math.nan if generation == 3 else -float(generation))

    result = evolve(noisy_fitness, torch.zeros(PARAMS), CONFIG, tmp_path, validate=nan_at_first)
    assert (result.best_generation, result.best_score) == (6, -6)
    assert read_rows(tmp_path)[2]["validation"]["score"] is None


def test_every_generation_has_its_own_seed_known_in_advance(reference: Path):
    seeds = [row["seed"] for row in read_rows(reference)]
    assert seeds == [generation_seed(4, generation) for generation in range(1, 9)]
    assert len({generation_seed(seed, g) for seed in range(20) for g in range(20)}) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_candidates_are_what_the_search_learned_from(tmp_path: Path):
    seen = []

    def fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        seen.append(candidates)
        return FitnessReport(torch.arange(float(len(candidates))))

    run(tmp_path, fitness, replace(CONFIG, generations=1))
    assert seen[0].dtype == torch.float32
    assert seen[0].shape == (6, PARAMS)
    best = load_state(tmp_path)[0]["search.best_candidate"]
    assert torch.equal(best.float(), seen[0][5])


@pytest.mark.parametrize("dies_at", [1, 2, 4, 8])
@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_fitness_that_dies_costs_one_checkpoint_interval(
    dies_at: int, checkpoint_every: int, tmp_path: Path, reference: Path
):
    config = replace(CONFIG, checkpoint_every=checkpoint_every)
    scored = []

    def dying(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        if generation == dies_at:
            raise RuntimeError("out of memory")
        scored.append(generation)
        return noisy_fitness(candidates, generation, seed)

    with pytest.raises(NammError, match="out of memory"):
        run(tmp_path, lambda c, generation, seed: dying(c, generation, seed), config)
    scored.clear()
    run(tmp_path, lambda c, g, s: (scored.append(g), noisy_fitness(c, g, s))[1], config)
    assert scored[0] == dies_at - (dies_at - 1) % checkpoint_every
    assert_same_run(tmp_path, reference)


@pytest.mark.slow
def test_killed_at_every_disk_operation(tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch):
    """Sweeps the kill through every fsync and rename of the run: between row and checkpoint, between both files."""
    config = replace(CONFIG, checkpoint_every=2)
    operations = {"fsync": os.fsync, "replace": os.replace}
    countdown = [math.inf]

    def counted(name: str):
        def operate(*arguments: object) -> None:
            countdown[0] -= 1
            if countdown[0] < 0:
                raise Killed
            operations[name](*arguments)

        return operate

    for name in operations:
        monkeypatch.setattr(checkpoint.os, name, counted(name))
    point = 0
    while True:
        folder = tmp_path / str(point)
        countdown[0] = point
        try:
            run(folder, config=config)
        except Killed:
            countdown[0] = math.inf
            if point == 0 or point % 5 != 0:
                run(folder, config=config)
            else:  # dies again right after it was resumed
                countdown[0] = 3
                with pytest.raises(Killed):
                    run(folder, config=config)
                countdown[0] = math.inf
                run(folder, config=config)
            assert_same_run(folder, reference)
            point += 1
        else:
            break
    assert point > 25, "the sweep has to reach the middle of the run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_generation_saves_and_raises(number: int, tmp_path: Path, reference: Path):
    """Also between two checkpoints the finished generation is saved."""
    config = replace(CONFIG, checkpoint_every=5)
    before = signal.getsignal(number)
    seen = []

    def interrupted(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        if generation == 3:
            os.kill(os.getpid(), number)
        return noisy_fitness(candidates, generation, seed)

    with pytest.raises(KeyboardInterrupt, match="after generation 3 of 8"):
        run(
            tmp_path,
            interrupted,
            config,
            callback=lambda row, result: seen.append((row["generation"], result.generation)),
        )
    assert seen == [(1, 1), (2, 2), (3, 3)]
    assert signal.getsignal(number) is before
    assert load_state(tmp_path)[1]["search"]["generation"] == 3
    run(tmp_path, config=config)
    assert_same_run(tmp_path, reference)


def test_second_signal_stops_at_once(tmp_path: Path, reference: Path):
    def interrupted(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        if generation == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")
        return noisy_fitness(candidates, generation, seed)

    with pytest.raises(KeyboardInterrupt, match="second SIGINT"):
        run(tmp_path, interrupted)
    run(tmp_path)
    assert_same_run(tmp_path, reference)


def test_finished_run_returns_at_once_and_a_longer_one_continues(tmp_path: Path, reference: Path):
    run(tmp_path, config=replace(CONFIG, generations=6))
    result = run(tmp_path)
    assert_same_run(tmp_path, reference)

    def never(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        raise AssertionError("a finished run scores nothing")

    again = run(tmp_path, never)
    assert torch.equal(again.mean, result.mean)
    assert torch.equal(again.best_mean, result.best_mean)


def test_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, reference: Path):
    """A real refused write (file size limit), as on a full disk: clear error, nothing lost, no litter."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        if generation == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        return noisy_fitness(candidates, generation, seed)

    try:
        with pytest.raises(StorageError, match=r"state-000005.*intact.*run the same command again"):
            run(tmp_path, fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(tmp_path)[1]["search"]["generation"] == 4
    assert not list(tmp_path.glob("*.tmp"))
    run(tmp_path)
    assert_same_run(tmp_path, reference)


def test_history_that_cannot_be_written_leaves_the_old_checkpoint(tmp_path: Path, reference: Path):
    run(tmp_path, config=replace(CONFIG, generations=6))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "history.jsonl").stat().st_size + 20, hard))
    try:
        with pytest.raises(StorageError, match="append"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(tmp_path)
    assert_same_run(tmp_path, reference)


def test_two_evolutions_in_one_folder_are_refused(tmp_path: Path, reference: Path):
    def nested(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        if generation == 2:
            with pytest.raises(ConfigError, match="another process"):
                run(tmp_path)
        return noisy_fitness(candidates, generation, seed)

    run(tmp_path, nested)
    assert_same_run(tmp_path, reference)


def test_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="folder that can be written"):
        run(tmp_path / "file", lambda *_: pytest.fail("scored before it could save"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "json", "value"])
def test_damaged_checkpoint_is_refused(damage: str, tmp_path: Path):
    run(tmp_path)
    state, tensors = tmp_path / "state.json", tmp_path / "state-000008.safetensors"
    content = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(content[:-7])
    elif damage == "flip":
        tensors.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "remove":
        tensors.unlink()
    elif damage == "json":
        state.write_text(state.read_text()[:-20])
    else:
        state.write_text(state.read_text().replace('"generation": 8', '"generation": 7'))
    rows = (tmp_path / "history.jsonl").read_bytes()
    for use in (run, EvolutionResult.load):
        with pytest.raises(CheckpointError, match="empty folder"):
            use(tmp_path)
    assert (tmp_path / "history.jsonl").read_bytes() == rows


def test_history_without_checkpoint_is_refused(tmp_path: Path):
    """Starting anew would throw away the rows of a run whose state.json was lost."""
    run(tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json beside history\.jsonl"):
        run(tmp_path)


def test_torn_and_surplus_rows_are_dropped_damaged_ones_are_not(tmp_path: Path, reference: Path):
    history = tmp_path / "history.jsonl"
    run(tmp_path, config=replace(CONFIG, generations=6))
    whole = history.read_text()
    history.write_text(whole + '{"generation": 7, "seed": 1}\n{"genera')
    assert len(read_rows(tmp_path)) == 7
    run(tmp_path)
    assert_same_run(tmp_path, reference)

    history.write_text(history.read_text().replace('{"generation": 3,', '{"genxx": 3,'))
    with pytest.raises(CheckpointError, match="line 3"):
        run(tmp_path)
    history.write_text("".join(whole.splitlines(keepends=True)[:4]))
    with pytest.raises(CheckpointError, match=r"expected 8 rows.*found 4"):
        run(tmp_path)


def test_a_new_stage_continues_the_search_and_chooses_its_mean_anew(tmp_path: Path, reference: Path):
    """The first stage's best validation, 0 at generation 6, does not count in the second."""
    config = replace(CONFIG, stage_ends=(6,), validate_every=7)
    result = run(tmp_path, config=config)
    rows = read_rows(tmp_path)
    assert [row["stage"] for row in rows] == [1] * 6 + [2] * 2
    assert [row["generation"] for row in rows if row["validation"]] == [6, 7, 8]
    assert (result.best_generation, result.best_score) == (7, -1)
    assert [row["search"] for row in rows] == [row["search"] for row in read_rows(reference)]
    with pytest.raises(ConfigError, match="stage_ends"):
        run(tmp_path, config=replace(config, stage_ends=(5,)))
    with pytest.raises(ConfigError, match="increasing order"):
        EvolutionConfig(stage_ends=(5, 5))


def test_noise_is_what_prompts_change_in_the_order_of_candidates(tmp_path: Path):
    """A seed that shifts all candidates alike is no noise; one that shifts each by itself is."""

    def fitness(shared: float, own: float, merit: float):
        def score(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
            generator = torch.Generator().manual_seed(seed)
            shift = shared * torch.randn(1, generator=generator)
            return FitnessReport(
                shift + own * torch.randn(len(candidates), generator=generator) + merit * candidates[:, 0]
            )

        return score

    config = EvolutionConfig(
        generations=11, noise_every=2, noise_candidates=12, part=None, search=CMAESConfig(population=40, sigma=1.0)
    )
    found = {}
    for name, parts in {"quiet": (5, 0, 1), "noisy": (5, 0.5, 0), "mixed": (5, 0.5, 0.5)}.items():
        evolve(fitness(*parts), torch.zeros(PARAMS), config, tmp_path / name)
        rows = read_rows(tmp_path / name)
        assert rows[1]["noise"]["deviation"] == rows[0]["noise"]["deviation"], "carried on until it is measured again"
        found[name] = rows[0 if name == "mixed" else -1]["noise"]
    assert found["quiet"]["deviation"] < 1e-4
    assert found["quiet"]["signal_share"] == pytest.approx(1)
    assert found["noisy"]["deviation"] == pytest.approx(0.5, rel=0.25)
    assert found["noisy"]["signal_share"] < 0.4
    assert 0.2 < found["mixed"]["signal_share"] < 0.8


def test_other_settings_are_refused(tmp_path: Path):
    run(tmp_path)
    with pytest.raises(ConfigError, match=r"seed 4 \(now 5\)"):
        run(tmp_path, config=replace(CONFIG, seed=5))
    with pytest.raises(ConfigError, match=r"search\.sigma 0\.3 \(now 0\.2\)"):
        run(tmp_path, config=replace(CONFIG, search=replace(CONFIG.search, sigma=0.2)))
    with pytest.raises(ConfigError, match="start_sha256"):
        evolve(noisy_fitness, torch.ones(PARAMS), CONFIG, tmp_path)
    for field, value in (("generations", 0), ("validate_every", 0), ("checkpoint_every", 0), ("seed", -1)):
        with pytest.raises(ConfigError, match=field):
            EvolutionConfig(**{field: value})


def test_all_candidates_failed_ends_the_run_and_keeps_it(tmp_path: Path, reference: Path):
    def failing(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        return (
            FitnessReport(torch.full((len(candidates),), math.nan))
            if generation == 4
            else noisy_fitness(candidates, generation, seed)
        )

    with pytest.raises(NammError, match="6 of 6 candidates failed at generation 4"):
        run(tmp_path, failing)
    run(tmp_path)
    assert_same_run(tmp_path, reference)


def flat_from(first: int, last: int = 10**6):
    """A fitness that is the same for all candidates in some generations."""

    def fitness(candidates: torch.Tensor, generation: int, seed: int) -> FitnessReport:
        told = noisy_fitness(candidates, generation, seed)
        return FitnessReport(torch.zeros(len(candidates))) if first <= generation <= last else told

    return fitness


def test_a_fitness_that_tells_no_candidates_apart_ends_the_run(tmp_path: Path) -> None:
    """It walked at random in silence, and what came of it was saved as if it had been evolved."""
    config = replace(CONFIG, generations=FLAT + 3)
    rows: list[dict] = []
    with pytest.raises(NammError, match=rf"all \d+ at \+0\.0000 in {FLAT} generations in a row up to {FLAT}"):
        run(tmp_path / "always", flat_from(1), config, lambda row, result: rows.append(dict(row)))
    assert [row["flat"] for row in rows] == list(range(1, FLAT))
    with pytest.raises(NammError, match="in 2 generations in a row up to 2"):
        run(tmp_path / "short", flat_from(1), replace(CONFIG, generations=2))
    with pytest.raises(NammError, match=f"up to {FLAT}"):  # the same command finds the same again
        run(tmp_path / "always", flat_from(1), config)


def test_a_flat_generation_now_and_then_is_only_told(tmp_path: Path) -> None:
    rows: list[dict] = []
    config = replace(CONFIG, generations=6)
    run(tmp_path, flat_from(2, 3), config, lambda row, result: rows.append(dict(row)))
    assert [row["flat"] for row in rows] == [0, 1, 2, 0, 0, 0]
