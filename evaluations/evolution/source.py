"""Where an evolution's fitness comes from: source models, their statistics, and the judge of each stage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.commands.devices import check_device
from evaluations.evolution.benchmark_fitness import BenchmarkFitness, BenchmarkFitnessConfig
from evaluations.evolution.config import EvolveConfig
from evaluations.evolution.recall_fitness import RecallFitness, source_statistics
from evaluations.evolution.stages import Stage
from evaluations.tasks.recall.tasks import get_task, validation_seed
from modalities.pretrained import Located, load_config, load_model, load_tokenizer, locate, weight_facts
from modalities.pretrained.loading import moved
from modalities.pretrained.precision import quick_dtype
from namm import NAMM, NAMMConfig
from namm.calibration import with_statistics
from namm.errors import ConfigError
from namm.evolution.checkpoint import held
from namm.evolution.ranks import Ranks
from namm.features import FeatureStatistics
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICTURED = 4
"""Contexts in a picture of what the mean keeps."""


COMPUTED_IN = "computed_in"
"""Of what tells models apart: the floating-point type."""


@dataclass(frozen=True)
class Source:
    """The models that candidates are judged on; the first one's statistics are deployed."""

    models: tuple[PreTrainedModel, ...]
    tokenizer: PreTrainedTokenizerBase | None
    weights: tuple[dict[str, Any], ...] = ()
    """What tells each model's weights from others."""

    @property
    def model(self) -> PreTrainedModel:
        """The first."""
        return self.models[0]

    @staticmethod
    def load(config: EvolveConfig, course: Sequence[Stage]) -> Source:
        """Loads what a configuration names; a tokenizer where benchmarks need one."""
        device = str(check_device(_device(config.device)))
        dtype = quick_dtype(torch.bfloat16 if config.bfloat16 else torch.float32, device)
        found = [locate(name) for name in (config.model, *config.more_models)]
        models = tuple(load_source(located, dtype, device) for located in found)
        computed = str(dtype).removeprefix("torch.")  # follows from the machine, and decides the last bits of a fitness
        weights = tuple(
            {**weight_facts(located, getattr(model.config, "_commit_hash", None)), COMPUTED_IN: computed}
            for located, model in zip(found, models, strict=True)
        )
        tokenizer = load_tokenizer(found[0]) if any(stage.benchmarks for stage in course) else None
        return Source(models, tokenizer, weights)

    def judge(self, config: EvolveConfig, stage: Stage, namm: NAMM) -> RecallFitness | BenchmarkFitness:
        """The fitness of a stage."""
        if not stage.benchmarks:
            return RecallFitness(self.models, namm, replace(config.fitness, tasks=stage.tasks))
        assert self.tokenizer is not None  # loaded for benchmarks
        wanted = BenchmarkFitnessConfig(
            stage.tasks, config.data, config.templates, config.fitness.prompts, config.fitness.intervals,
            config.lengths, config.samples, config.answers, config.window, config.fitness.price,
            config.validation_share,
        )  # fmt: skip
        return BenchmarkFitness(self.model, self.tokenizer, namm, wanted)

    def contexts(self, config: EvolveConfig, stage: Stage) -> list[list[int]]:
        """Token ids of a few validation prompts of the stage's last task."""
        if not stage.benchmarks:
            tokens = max(config.fitness.context_tokens)
            return get_task(stage.tasks[-1]).sample(PICTURED, tokens, validation_seed(1)).context.tolist()
        judge = self.judge(config, replace(stage, tasks=stage.tasks[-1:]), NAMM())
        assert isinstance(judge, BenchmarkFitness)
        [task] = judge.tasks
        return [[*task.prompts[place].context] for place in task.validation[:PICTURED]]


def policy_of(config: EvolveConfig, namm: NAMM, mean: Float[Tensor, " params"], tokens: int) -> Policy:
    """A mean as the policy that it will be deployed as, for contexts of so many tokens."""
    fraction = config.fitness.budget_fraction
    return make_policy(
        "namm", namm=NAMM(namm.config, mean, namm.statistics), interval=config.fitness.intervals[0],
        protected_last=config.fitness.protected_last,
        budget=None if fraction is None else max(1, round(fraction * tokens)),
    )  # fmt: skip


def first_namm(config: EvolveConfig, course: Sequence[Stage], source: Source, ranks: Ranks) -> NAMM:
    """Where the search starts: zeros and the source's statistics, or an earlier NAMM with its own."""
    device = source.model.device
    if config.start is not None:
        return _continued(config, NAMM.from_pretrained(config.start)).to(device)
    namm = NAMM(_namm_config(config)).to(device)
    measured: dict[str, Tensor] = {}
    if ranks.leads:
        found = _measure(config, course[0], source, namm)
        measured = {"mean": found.mean, "deviation": found.deviation}
    shared, _ = ranks.from_leader(measured, None)
    return with_statistics(namm, FeatureStatistics(shared["mean"], shared["deviation"])).to(device)


def _continued(config: EvolveConfig, earlier: NAMM) -> NAMM:
    """An earlier NAMM, with what it reads and its network, at this run's interval.

    Raises:
        ConfigError: The run names other signals or another network.
    """
    constants, has = _namm_config(config), earlier.config
    if (config.signals or has.signals) != has.signals or config.scorer not in ("bam", has.scorer):
        raise ConfigError(
            f"--start {config.start}: expected its signals {has.signals} and scorer {has.scorer!r}, found "
            f"{config.signals} and {config.scorer!r}; leave --signals and --scorer out, or start from another NAMM."
        )
    changed = replace(has, interval=constants.interval, trained_statistics=constants.trained_statistics)
    return NAMM(changed, earlier.flat, earlier.statistics)


def _namm_config(config: EvolveConfig, interval: int | None = None) -> NAMMConfig:
    return NAMMConfig(
        scorer=config.scorer,
        signals=config.signals or ("spectrogram",),
        interval=interval or config.fitness.intervals[0],
        trained_statistics="+".join(dict.fromkeys(config.fitness.statistics)),
    )


def check_before_ranks(config: EvolveConfig, ranks: int) -> None:
    """What can be said of a configuration without its weights, so that no process is started for a wrong one.

    Raises:
        NammError: A setting is wrong, the folder cannot be had, or a model, NAMM or device that it names is not there.
    """
    config.course()
    config.search()
    for interval in config.fitness.intervals:
        _namm_config(config, interval)
    if config.start is not None:
        _continued(config, NAMM.from_pretrained(config.start))
    for name in (config.model, *config.more_models):
        load_config(name)
    if config.device != "cuda":
        check_device(config.device)
    elif (found := torch.cuda.device_count()) < ranks:
        raise ConfigError(f"--device cuda: expected a GPU for each of {ranks} ranks, found {found}; lower --ranks.")
    with held(config.out):
        pass


@torch.inference_mode()
def _measure(config: EvolveConfig, stage: Stage, source: Source, namm: NAMM) -> FeatureStatistics:
    """As released: full cache, the first stage's prompts, before anything is evolved; frozen from then on."""
    judge = source.judge(config, stage, namm)
    if isinstance(judge, BenchmarkFitness):
        return judge.measure()
    fitness = config.fitness
    tokens, interval = max(fitness.context_tokens), min(fitness.intervals)
    return source_statistics(source.model, namm, stage.tasks, tokens, interval)


def load_source(name: str | Located, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """A causal language model, ready for inference.

    Raises:
        NammError: There is none of that name, or its files cannot be used.
    """
    return moved(load_model(name, dtype), torch.device(device))


def _device(name: str) -> str:
    """`cuda` is the GPU that torchrun meant for this process."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
