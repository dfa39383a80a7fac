"""`namm-evolve` from its command line to what it leaves behind: stages, resume, page, pictures, W&B, benchmarks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from evaluations import evolve
from evaluations.boards.wandb_package import LEAN
from evaluations.commands.ranks import Launch
from evaluations.evolution.benchmark_fitness import BenchmarkFitness, BenchmarkFitnessConfig, held_back
from evaluations.evolution.config import preset_config
from evaluations.evolution.page import write_page
from evaluations.evolution.recall_fitness import RecallFitnessConfig
from evaluations.evolution.series import line, numbers
from evaluations.evolution.stages import PAPER_STAGES, Stage
from evaluations.evolution.tracking import EvolutionTracker
from evaluations.evolve import EvolveConfig
from evaluations.tasks.recall.corpus import default_vocabulary
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError
from namm.evolution.cmaes import CMAESConfig
from namm.evolution.history import read_rows
from namm.evolution.loop import EvolutionResult
from tests.evaluations.tasks.text.made_up_data import longbench_config, longbench_folder, longbench_row

pytestmark = pytest.mark.slow

SMALL = RecallFitnessConfig(prompts=1, context_tokens=(80,), intervals=(32,), validation_prompts=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with the shipped tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=default_vocabulary().size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4, eos_token_id=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(EvolveConfig().model).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvolveConfig, EvolutionResult]:
    """Two stages, watched by everything."""
    config = EvolveConfig(
        model=str(model), out=tmp_path_factory.mktemp("runs") / "whole", stages=("pairs:2", "pairs,copy:2"),
        fitness=SMALL, population=8, part=4, noise_every=2, validate_every=3, pictures_every=2, bfloat16=False,
        wandb="offline", threads=1,
    )  # fmt: skip
    return config, evolve.run(config)


def test_stages_are_one_search_and_each_leaves_its_namm(run: tuple[EvolveConfig, EvolutionResult]) -> None:
    config, result = run
    rows = read_rows(config.out)
    assert [row["stage"] for row in rows] == [1, 1, 2, 2]
    validated = {row["generation"]: set(row["validation"]["extras"]) for row in rows if row["validation"]}
    assert {name for name in validated[2] if name.startswith("copy")} == set()
    assert {name for name in validated[4] if name.startswith("copy")} != set()
    first, last = (NAMM.from_pretrained(config.out / name) for name in ("stage-1", "namm"))
    assert torch.equal(last.flat, result.best_mean)
    assert not torch.equal(first.flat, last.flat)
    assert torch.equal(first.statistics_mean, last.statistics_mean), "measured once, then frozen"


def test_stopped_in_the_first_stage_and_continued_is_the_same(run: tuple[EvolveConfig, EvolutionResult]) -> None:
    config, result = run
    parts = dataclasses.replace(config, out=config.out.parent / "parts", stages=("pairs:2", "pairs,copy:1"))
    evolve.run(dataclasses.replace(parts, wandb="disabled"))
    whole = evolve.run(dataclasses.replace(parts, stages=config.stages))
    assert torch.equal(whole.mean, result.mean)
    for changes, name in (({"stages": ("pairs:3", "pairs,copy:2")}, "stages"), ({"part": 8}, "part")):
        with pytest.raises(ConfigError, match=name):
            evolve.run(dataclasses.replace(parts, **changes))
    with pytest.raises(ConfigError, match=r"fitness\.price 0\.5 \(now 0\.1\)"):
        evolve.run(dataclasses.replace(parts, stages=config.stages, fitness=dataclasses.replace(SMALL, price=0.1)))


def test_the_page_holds_every_number_and_the_picture_and_loads_nothing(
    run: tuple[EvolveConfig, EvolutionResult], tmp_path: Path
) -> None:
    config, _ = run
    page = (config.out / "live.html").read_text()
    assert "generation 4 of 4, finished" in page
    assert "http-equiv=refresh" not in page
    assert "data:image/png;base64," in page
    assert not [word for word in ("http://", "https://", "<script", "src='/") if word in page]
    rows = read_rows(config.out)
    assert f"validation, generation 4: {rows[3]['validation']['score']:.4g}" in page
    assert sorted(path.name for path in (config.out / "pictures").iterdir()) == ["kept-000002.png", "kept-000004.png"]
    write_page(tmp_path / "page.html", "a <run>", rows[:2], 4, None, running=True)
    page = (tmp_path / "page.html").read_text()
    assert "http-equiv=refresh" in page
    assert "a &lt;run&gt;" in page
    write_page(tmp_path / "page.html", "empty", [], 4, None, running=True)
    failed = {**rows[0], "failed": 2, "errors": ["RuntimeError: out of <memory>"]}
    write_page(tmp_path / "page.html", "failed", [failed], 4, None, running=True)
    assert (
        "2 evaluations of candidates failed; the last: RuntimeError: out of &lt;memory&gt;"
        in (tmp_path / "page.html").read_text()
    )
    assert "2 candidates failed: RuntimeError: out of <memory>" in line(failed)


def records(folder: Path) -> list[dict]:
    """Every record of the newest part, by W&B's own reader."""
    newest = max(folder.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime)
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(newest)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(text) for text in out.splitlines()]


def test_w_and_b_has_every_generation_and_a_continued_run_is_whole(run: tuple[EvolveConfig, EvolutionResult]) -> None:
    config, _ = run
    rows = read_rows(config.out)
    text = json.dumps(records(config.out))
    for row in rows:
        for name, value in numbers(row).items():
            assert name in text
            assert str(value) in text, (name, value)
    assert "evolution/retention" in text
    assert "best-validation" in text
    assert "generation-0004" in text
    first = json.loads((config.out / "tracked.json").read_text())
    evolve.run(dataclasses.replace(config, stages=("pairs:2", "pairs,copy:3")))
    second = json.loads((config.out / "tracked.json").read_text())
    assert second["id"] == f"{first['root']}-part2"
    again = json.dumps(records(config.out))
    assert f'"{first["id"]}\\"' in again or first["id"] in again
    assert all(str(row["fitness"]["mean"]) in again for row in read_rows(config.out))


LONGER = ("pairs:2", "pairs,copy:4")
"""Stages that leave time to kill somebody."""


@pytest.fixture(scope="module")
def alone(run: tuple[EvolveConfig, EvolutionResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process comes to."""
    folder = tmp_path_factory.mktemp("alone")
    evolve.run(dataclasses.replace(run[0], out=folder, stages=LONGER, wandb="disabled"))
    return folder


def _command(model: str, folder: Path) -> list[str]:
    """The evolution of `alone` on the command line."""
    return [
        "--model", model, "--out", str(folder), "--stages", *LONGER, "--prompts", "1", "--context-tokens", "80",
        "--intervals", "32", "--validation-prompts", "1", "--population", "8", "--part", "4", "--noise-every", "2",
        "--validate-every", "3", "--pictures-every", "2", "--no-bfloat16", "--wandb", "disabled", "--threads", "1",
    ]  # fmt: skip


def _assert_same_bits(found: Path, alone: Path) -> None:
    rows, expected = ([{**row, "seconds": 0} for row in read_rows(folder)] for folder in (found, alone))
    assert rows == expected
    assert NAMM.from_pretrained(found / "namm").sha256() == NAMM.from_pretrained(alone / "namm").sha256()
    recipe, known = (json.loads((folder / "recipe.json").read_text()) for folder in (found, alone))
    differ = {name for name, value in recipe.items() if known[name] != value}
    assert differ == {"out"}, "how many ranks there were is no setting of the run"


def test_two_ranks_one_of_which_is_killed_come_to_the_same_bits(
    run: tuple[EvolveConfig, EvolutionResult], alone: Path, tmp_path: Path
) -> None:
    """Elastic restart: both are started again by torchrun and go on where they were."""
    root, folder = Path(evolve.__file__).parents[1], tmp_path / "ranks"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [*torchrun, str(root / "evaluations" / "evolve.py"), *_command(run[0].model, folder)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    history = folder / "history.jsonl"
    deadline = time.monotonic() + 180
    while not (history.exists() and history.read_bytes().count(b"\n")):
        assert agent.poll() is None, agent.communicate()[0][-2000:]
        assert time.monotonic() < deadline, "does not get on"
        time.sleep(0.01)
    _, other = _ranks(agent.pid)
    os.kill(other, signal.SIGKILL)
    said = agent.communicate(timeout=400)[0]
    assert agent.returncode == 0, said[-2000:]
    assert said.count("Watch ") == 2, "both were started again"
    assert said.count("Saved ") == 1, "the leader alone tells"
    _assert_same_bits(folder, alone)


def test_ranks_that_the_command_starts_come_to_the_same_bits(
    run: tuple[EvolveConfig, EvolutionResult], alone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """How it starts them again when one is killed: tests/evaluations/commands/test_ranks.py."""
    options = ["--ranks", "2", "--max-restarts", "3"]
    assert evolve.main([*_command(run[0].model, tmp_path), *options]) == 0
    assert capfd.readouterr().out.count("Saved ") == 1, "the leader alone tells"
    _assert_same_bits(tmp_path, alone)
    assert evolve._parse(options)[1] == Launch(ranks=2, max_restarts=3)


def _ranks(launcher: int) -> list[int]:
    """Process ids of the ranks of a launcher, which starts them in order."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes()
            if parent == launcher and (b"evolve.py" in words or b"spawn_main" in words):
                found.append(int(path.name))
    return sorted(found)


def test_where_w_and_b_cannot_be_reached_the_run_is_kept_offline(
    run: tuple[EvolveConfig, EvolutionResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(run[0].out)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(LEAN, "init_timeout", 1.0)
    with EvolutionTracker("online", tmp_path, {}, rows[:1]) as tracker:
        tracker.log(rows[1])
    assert "could not be reached" in tracker.notice
    text = json.dumps(records(tmp_path))
    assert all(str(row["fitness"]["mean"]) in text for row in rows[:2])


def test_presets_are_whole_evolutions() -> None:
    paper = preset_config("paper")
    search = paper.search()
    assert (search.generations, search.stage_ends) == (670, (300, 550))
    assert search.search == CMAESConfig(population=32, sigma=0.065, covariance="full", elite_ratio=0.5)
    assert (paper.fitness.prompts, paper.fitness.price, paper.fitness.statistics) == (64, 0.0, ("source",))
    assert preset_config("paper", data=Path("somewhere")).stages == PAPER_STAGES
    assert preset_config("paper", generations=3).search().stage_ends == ()
    assert preset_config("robust").fitness.rescale > 0
    assert evolve._parse(["--preset", "paper", "--data", "x"])[0].stages == PAPER_STAGES
    assert evolve._parse(["--preset", "paper", "--prompts", "7"])[0].fitness.prompts == 7
    assert evolve._parse(["--preset", "paper"])[0].fitness.prompts == 64
    assert evolve._parse([])[0].search().search.covariance == "isotropic"


def test_a_disk_that_refuses_ends_the_command_with_what_to_do(
    run: tuple[EvolveConfig, EvolutionResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real refused write, as on a full disk, in the middle of a run; then the same command goes on."""
    config, _ = run
    command = [
        "--model", config.model, "--out", str(tmp_path), "--stages", "pairs:3", "--prompts", "1",
        "--context-tokens", "80", "--intervals", "32", "--validation-prompts", "1", "--population", "4", "--part", "4",
        "--noise-every", "0", "--pictures-every", "0", "--no-bfloat16", "--wandb", "disabled", "--threads", "1",
    ]  # fmt: skip
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert evolve.main(command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run the same command again" in capsys.readouterr().err
    assert evolve.main(command) == 0
    assert "Saved" in capsys.readouterr().out


def test_impossible_courses_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("pairs", "pairs:0", ":3", "pairs:many"):
        with pytest.raises(ConfigError, match="TASK,TASK:GENERATIONS"):
            Stage.parse(wrong)
    with pytest.raises(UnknownNameError, match="Did you mean 'pairs'"):
        Stage.parse("pears:3")
    with pytest.raises(UnknownNameError, match="Did you mean 'qasper'"):
        Stage.parse("longbench/qaspar:3")
    with pytest.raises(ConfigError, match="found both"):
        Stage.parse("pairs,longbench/qasper:3")
    assert evolve.main(["--optimizer", "cmaes-isotropc"]) == 2
    assert "Did you mean 'cmaes-isotropic'" in capsys.readouterr().err
    assert evolve.main(["--stages", "pairs:3", "--generations", "3"]) == 2
    assert "leave one out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks in LongBench's own layout; on one of them a random model is right now and then."""
    root = tmp_path_factory.mktemp("data")
    tasks = ("passage_retrieval_en", "narrativeqa")
    for task in tasks:
        letters = list("etaoinsrhl,.") if task == "narrativeqa" else ["Paragraph 3"]
        longbench_folder(root, task, [longbench_row(number, task, answers=letters) for number in range(8)])
    longbench_config(root / "config", tasks, longest=4)
    return root


def test_prompts_about_one_document_are_all_held_back_or_all_evolved_on() -> None:
    documents = [None, "a", "b", "a", None, "b", "c", "b", "c", None]
    for share, least in ((0.0, 0), (0.2, 2), (0.5, 5), (0.9, 9)):
        held, order = held_back(documents, share)
        assert sorted(order) == list(range(10))
        assert held >= least
        kept, seen = ({documents[place] for place in part} - {None} for part in (order[:held], order[held:]))
        assert not kept & seen
    plain = np.random.default_rng(0).permutation(8).tolist()
    assert held_back([None] * 8, 0.25) == (2, plain), "what it was where each prompt has its own"


def test_a_benchmark_judges_candidates_as_the_full_cache_is_judged(model: Path, data: Path) -> None:
    config = BenchmarkFitnessConfig(
        ("longbench/narrativeqa",), data, prompts=3, intervals=(32,), window=200, price=0.25, validation_share=0.25
    )
    source = evolve.load_source(str(model), torch.float32)
    fitness = BenchmarkFitness(source, AutoTokenizer.from_pretrained(model), NAMM(), config)
    [task] = fitness.tasks
    assert len(task.validation) == 2
    assert sorted([*task.validation, *task.training]) == list(range(8))
    assert max(prompt.tokens for prompt in task.prompts) <= 200
    keep_none = torch.zeros(4172)
    keep_none[-1] = -1.0
    candidates = torch.stack([torch.zeros(4172), keep_none])
    report = fitness(candidates, 1, 5)
    assert len(task.reference) == 3, "drawn without replacement, measured once"
    assert set(task.reference) <= set(task.training)
    assert report.candidates["kept_fraction"][0] == 1.0
    assert report.candidates["kept_fraction"][1] < 0.5
    full = sum(task.reference.values()) / 3
    assert report.fitness[0] == pytest.approx(full / max(full, 0.01) - 0.25)
    alone = torch.cat([fitness(row[None], 1, 5).fitness for row in candidates])
    torch.testing.assert_close(alone, report.fitness)
    assert fitness.validate(candidates[0], 1).extras["kept_fraction"] == 1.0


def test_a_benchmark_is_made_at_lengths_and_scored_by_likelihood_over_several_intervals(model: Path) -> None:
    """It ran at 4,096 tokens and one interval whatever was asked for; right or wrong says little about a candidate."""
    config = BenchmarkFitnessConfig(
        ("ruler/niah_single_1",), prompts=2, intervals=(32, 64), lengths=(640, 704), samples=2, answers="likelihood",
        price=0.25,
    )  # fmt: skip
    source = evolve.load_source(str(model), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    fitness = BenchmarkFitness(source, tokenizer, NAMM(), config)
    [task] = fitness.tasks
    assert len(task.prompts) == 4
    assert max(len(prompt.context) for prompt in task.prompts) < 704
    keep_none = torch.zeros(4172)
    keep_none[-1] = -1.0
    candidates = torch.stack([torch.zeros(4172), keep_none])
    reports = [fitness(candidates, 1, seed) for seed in range(6)]
    assert {report.extras["interval"] for report in reports} == {32, 64}
    for report in reports:
        relative, kept = report.candidates["relative_score"], report.candidates["kept_fraction"]
        assert float(relative[0]) == pytest.approx(1.0, abs=1e-4), "zeros keep everything: the full cache"
        assert 0.0 < float(relative[1]) < 1.0
        torch.testing.assert_close(report.fitness, relative - 0.25 * kept)
    [prompt] = [task.prompts[place] for place in task.training[:1]]
    ids = torch.tensor([[*prompt.context, *prompt.question]])
    logits = source(input_ids=ids).logits[0, len(prompt.context) :].log_softmax(-1)
    by_hand = logits.gather(1, torch.tensor(prompt.targets)[:, None]).mean()
    fitness.validate(candidates[0], 1)
    assert task.reference[task.training[0]] == pytest.approx(float(by_hand.detach()), abs=1e-4)
    extras = fitness.validate(candidates[1], 1).extras
    assert {"ruler/niah_single_1_32", "ruler/niah_single_1_64"} <= set(extras)


def test_the_papers_course_runs_on_its_benchmarks(model: Path, data: Path, tmp_path: Path) -> None:
    config = preset_config(
        "paper", model=str(model), out=tmp_path / "run", data=data, window=160, bfloat16=False, wandb="disabled",
        stages=("longbench/passage_retrieval_en:1", "longbench/passage_retrieval_en,longbench/narrativeqa:1"),
        optimizer="cmaes-isotropic", population=4, pictures_every=1, threads=1,
        fitness=RecallFitnessConfig(prompts=2, price=0.0, intervals=(32,), context_tokens=(64,)),
    )  # fmt: skip
    result = evolve.run(config)
    rows = read_rows(config.out)
    assert [set(row["validation"]["extras"]) - {"kept_fraction", "relative_score"} for row in rows] == [
        {"longbench/passage_retrieval_en"},
        {"longbench/passage_retrieval_en", "longbench/narrativeqa"},
    ]
    assert not torch.equal(NAMM.from_pretrained(config.out / "namm").statistics_mean, torch.zeros(1, 17))
    assert result.generation == 2
