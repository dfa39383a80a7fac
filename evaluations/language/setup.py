"""The model, its tokenizer, the NAMM and the exams of a text experiment, loaded and checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluations.experiment.models import load_placed
from evaluations.language.benchmark_exams import BenchmarkExam, Reading
from evaluations.language.calibration import TargetStatistics
from evaluations.language.cells import ReadingOptions, TextRunner
from evaluations.language.drawn_exams import Corpus, NextLineExam, PerplexityExam, RecallExam
from evaluations.language.exams import Exam
from evaluations.language.likelihood_exams import AskedExam, LikelihoodExam, Question
from evaluations.tasks.recall.corpus import default_vocabulary
from evaluations.tasks.recall.needles import BEYOND, NEEDLES
from evaluations.tasks.recall.tasks import SHIPPED_TASKS
from evaluations.tasks.recall.tasks import TASKS as RECALL
from evaluations.tasks.text import BENCHMARKS, BenchmarkOptions, benchmark_tasks
from modalities.huggingface.rope import NTKRope, scale_rope
from modalities.pretrained import Located, load_model, locate, read_tokenizer, weight_facts
from namm import NAMM
from namm.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CORPUS = {"corpus/perplexity": PerplexityExam, "corpus/next-line": NextLineExam}
OWN = (*SHIPPED_TASKS, *(name for name in NEEDLES if name not in BEYOND), *CORPUS)
"""What can be asked without any data, by the shipped model; of it, `CORPUS` by any."""
FAMILIES = {"recall": SHIPPED_TASKS, "needles": tuple(NEEDLES), "corpus": tuple(CORPUS)}
MARGIN = 128
"""Tokens that the questions of drawn tasks may need."""


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded."""

    model: str
    dtype: str = "auto"
    device: str = "cpu"
    """cpu, cuda, cuda:1, or auto: accelerate spreads the layers over all devices."""
    rope: NTKRope | None = None


@dataclass(frozen=True)
class ExamOptions:
    """What is asked."""

    tasks: tuple[str, ...]
    context_tokens: tuple[int, ...]
    prompts: int
    benchmark: BenchmarkOptions
    window: int | None
    chat_template: bool
    limit: int | None
    answers: str = "generated"
    """Of benchmarks: generated, likelihood, or both."""
    questions: tuple[Question, ...] = ("after",)
    """Where a benchmark's question stands; each is an exam of its own."""


@dataclass(frozen=True)
class TextSetup:
    """What a process needs to know to play any unit of a text experiment."""

    model: ModelOptions
    exams: ExamOptions
    namm: Path | None
    intervals: tuple[int, ...]
    reading: ReadingOptions
    folder: Path
    threads: int

    def load(self, index: int = 0) -> dict[str, TextRunner]:
        """A runner for every exam, context length and interval, by name.

        Args:
            index: Of this process among those of this machine; where there are several GPUs, each gets its own.

        Raises:
            NammError: Anything wrong with the model, its files, the NAMM or an exam.
        """
        names = task_names(self.exams.tasks)  # before a large model is loaded
        loaded = LoadedModel(self.model, index)
        namm = None if self.namm is None else NAMM.from_pretrained(self.namm).to(loaded.model.device)
        statistics = {interval: TargetStatistics(loaded.tokenizer) for interval in self.intervals}
        found = {}
        for exam in _exams(names, self.exams, loaded):
            for interval in self.intervals:
                options = ReadingOptions(**{**vars(self.reading), "interval": interval})
                runner = TextRunner(
                    exam, loaded.model, loaded.tokenizer, loaded.name, loaded.facts, namm, statistics[interval],
                    options, self.folder,
                )  # fmt: skip
                found[self.label(exam, interval)] = runner
        return found

    def label(self, exam: Exam, interval: int) -> str:
        """The exam's name, with what else tells it from others of this experiment."""
        told = [exam.name]
        several = len(self.exams.context_tokens) > 1 or len(self.exams.benchmark.lengths) > 1
        if several and exam.length:
            told.append(f"{exam.length} tokens")
        if isinstance(exam, AskedExam) and len(self.exams.questions) > 1:
            told.append(f"question {exam.question}")
        if isinstance(exam, LikelihoodExam) and self.exams.answers == "both":
            told.append("likelihood")
        if len(self.intervals) > 1:
            told.append(f"interval {interval}")
        return ", ".join(told)


class LoadedModel:
    """A causal language model with what belongs to it."""

    def __init__(self, options: ModelOptions, index: int = 0) -> None:
        self.options = options
        self.located = locate(options.model)
        self.name = self.located.name
        self.model = _model(options, self.located, index)
        if options.rope is not None:
            scale_rope(self.model, options.rope)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its tokenizer; None where the folder has none.

        Raises:
            CheckpointError: It has one that is damaged.
        """
        tokenizer = read_tokenizer(self.located)
        if tokenizer is None:
            return None
        tokenizer.model_max_length = int(1e30)  # what is too long is cut here, and not worth a warning before
        return tokenizer

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides its answers, for the key of a row."""
        rope = None if self.options.rope is None else asdict(self.options.rope)
        dtype = str(self.model.dtype).removeprefix("torch.")
        told = {"model": self.name, "dtype": dtype, "device": self.model.device.type, "rope": rope}
        return {**told, **weight_facts(self.located, getattr(self.model.config, "_commit_hash", None))}

    @property
    def window(self) -> int:
        """Tokens that it can place, stretched positions included."""
        most = int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 4096))
        return int(most * (self.options.rope.factor if self.options.rope else 1.0))

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        told = [getattr(self.model.generation_config, "eos_token_id", None)]
        told += [getattr(self.tokenizer, "eos_token_id", None)]
        flat = [token for entry in told for token in (entry if isinstance(entry, list) else [entry])]
        return frozenset(token for token in flat if token is not None)

    @property
    def has_recall_vocabulary(self) -> bool:
        """Whether it was made for the recall tasks."""
        return self.model.config.get_text_config().vocab_size == default_vocabulary().size


def task_names(tasks: Sequence[str]) -> list[str]:
    """Tasks with families spelled out, each once; a recall task goes by its own name.

    Raises:
        UnknownNameError: There is no such task.
    """
    found: dict[str, None] = {}
    for name in tasks:
        family, _, rest = name.partition("/")
        if name in FAMILIES:
            found |= dict.fromkeys(FAMILIES[name])
        elif name in RECALL or name in NEEDLES or name in CORPUS:
            found[name] = None
        elif family == "recall" and rest in RECALL:
            found[rest] = None
        elif family in FAMILIES or (family.replace("_", "-") not in BENCHMARKS):
            known = (*RECALL, *NEEDLES, *CORPUS, *FAMILIES, *BENCHMARKS)
            raise UnknownNameError(f"Unknown task {name!r}. {did_you_mean(name, known)}")
        else:
            found |= dict.fromkeys(f"{kind}/{task}" for kind, task in benchmark_tasks([name]))
    if not found:
        raise ConfigError("--tasks must name at least one, found none.")
    return list(found)


def _exams(names: Sequence[str], options: ExamOptions, loaded: LoadedModel) -> list[Exam]:
    found: list[Exam] = []
    drawn = [name for name in names if name in RECALL or name in NEEDLES or name in CORPUS]
    longest = max(options.context_tokens)
    if drawn and longest + MARGIN > loaded.window:
        raise ConfigError(
            f"{loaded.name} places {loaded.window} tokens, found contexts of {longest} in {drawn[0]!r} (and {MARGIN} "
            "for questions); pass a smaller --context-tokens, or --rope-factor."
        )
    for name in names:
        if name in RECALL or name in NEEDLES:
            if not loaded.has_recall_vocabulary:
                raise ConfigError(
                    f"Task {name!r} is asked in the vocabulary of the shipped recall model, found {loaded.name} with "
                    f"{loaded.model.config.vocab_size} tokens; pass --tasks corpus, or a benchmark such as ruler."
                )
            task = RECALL.get(name) or NEEDLES[name]
            found += [RecallExam(name, task, tokens, options.prompts) for tokens in options.context_tokens]
            continue
        if loaded.tokenizer is None:
            raise CheckpointError(f"Task {name!r} needs a tokenizer, found none in {loaded.options.model}.")
        if name in CORPUS:
            corpus = Corpus(loaded.tokenizer, options.benchmark.texts)
            found += [CORPUS[name](name, corpus, tokens, options.prompts) for tokens in options.context_tokens]
            continue
        kind, _, task = name.partition("/")
        reading = Reading(options.window or loaded.window, options.chat_template, options.limit)
        if options.chat_template and loaded.tokenizer.chat_template is None:
            raise ConfigError(f"--chat-template needs one, found none with the tokenizer of {loaded.name}.")
        found += _asked(kind, task, options, loaded.tokenizer, loaded.ends, reading)
    return found


def _asked(
    kind: str,
    task: str,
    options: ExamOptions,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int],
    reading: Reading,
) -> Iterator[BenchmarkExam]:
    """A benchmark's task in every way that it is to be asked; at each length by itself where likelihoods are scored.

    One size for prompts of several lengths is no equal memory; exams of their own are matched by themselves.
    """
    told = (BENCHMARKS[kind](options.benchmark), task, tokenizer, ends, reading)
    if options.answers == "generated" and options.questions == ("after",):
        yield BenchmarkExam(*told)
        return
    kinds = {"generated": (AskedExam,), "likelihood": (LikelihoodExam,), "both": (AskedExam, LikelihoodExam)}
    made = BENCHMARKS[kind](options.benchmark).protocol(task)
    lengths = options.benchmark.lengths if "lengths" in made else (0,)
    for length in lengths:
        wanted = replace(options.benchmark, lengths=(length,)) if length else options.benchmark
        for question in options.questions:
            for exam in kinds[options.answers]:
                yield exam(BENCHMARKS[kind](wanted), *told[1:], context_tokens=length, question=question)


def _model(options: ModelOptions, located: Located, index: int) -> PreTrainedModel:
    return load_placed(partial(load_model, located), options.dtype, options.device, index)
