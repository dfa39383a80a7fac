"""Cells of a text experiment: one policy reads and answers the prompts of one exam and seed.

Beside the keys of evaluations/rows/results.py a row holds:

    metrics     slots_mean (when the question comes; per KV head, mean over layers, heads and prompts), head_slots (the
                same for each layer and head), kept_fraction (slots / tokens read by then), evicted (until the end, per
                KV head and prompt), evicting (share of the prompts of which anything had been evicted by then),
                tokens_seen, bytes_mean and state_bytes_mean (then, per prompt), bytes_peak and state_bytes_peak,
                prefill_seconds, decode_seconds, policy_seconds (a part of both; null on a GPU), decoded_tokens,
                prompts_cut, and the means of whatever else is graded (nats_per_token, token_accuracy)
    prompts     id, document (a short name of the text it is about, where others may be about the same), score, slots,
                tokens, and what else is graded
    memory      asked_to_evict, role (reference, free, matched, given), matched_to, asked, settings of the policy
    protocol    how prompts were made and answered
    trace       one prompt, what was kept of it and what was answered (evaluations/language/trace.py); first seed only
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluations.experiment.contract import Size, Unit
from evaluations.experiment.prompt_measures import mean_of, measured
from evaluations.language.answers import Journal
from evaluations.language.calibration import TargetStatistics
from evaluations.language.exams import Exam, ExamPrompts
from evaluations.language.trace import told_trace, traced_place
from evaluations.language.trials import TRIALS
from evaluations.rows.results import Cell
from modalities.language.foresight import requests
from modalities.language.prompts import Group, Prompt, batches_of, groups_of
from modalities.language.reading import Answer, Costs, read
from modalities.language.token_kinds import token_kinds
from namm import NAMM, NAMMConfig
from namm.policies import Policy
from namm.sizing import Sized, described

HOP = NAMMConfig().hop
"""Queries of one step of a NAMM's spectra."""
SIZING_SEED = 5_000_000
"""Of the prompts on which sizes are found, where prompts are drawn: never one that is scored."""
SIZING_PROMPTS = 4


@dataclass(frozen=True)
class ReadingOptions:
    """How prompts are read; none of it changes a score but `protected_last`."""

    interval: int
    """Tokens between two updates."""
    schedule: Literal["interval", "prompt"]
    """Update at every interval, or once, when the context has been read."""
    protected_last: int
    """Newest tokens that are never evicted."""
    batch: int
    """Most prompts side by side."""
    batch_tokens: int
    """Most tokens side by side."""
    chunk: int | None
    """Most columns of a forward call."""
    share: bool
    """Read what prompts have in common once."""
    trace_seed: int
    trace_tokens: int
    """Longest context whose kept tokens are shown."""


@dataclass
class TextRunner:
    """Runs the cells of one exam."""

    exam: Exam
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    model_name: str
    facts: Mapping[str, Any]
    """Everything about the model that decides a score."""
    namm: NAMM | None
    statistics: TargetStatistics
    options: ReadingOptions
    folder: Path
    modality: ClassVar[str] = TRIALS.modality

    def attached(self, namm: NAMM) -> Self:
        """A runner of the same exam with another NAMM."""
        return replace(self, namm=namm.to(self.model.device))

    def cell(self, unit: Unit, seed: int, versions: Mapping[str, str]) -> Cell:
        """One cell of a unit, its identity holding everything that decides the result.

        Args:
            unit: Policy and size.
            seed: Of drawn prompts, and of policies that draw.
            versions: Of the packages.
        """
        spec, size = unit.spec, unit.size
        acts: dict[str, Any] = {"interval": self.options.interval, "schedule": self._schedule(unit)}
        if not spec.is_reference:
            acts |= {"protected_last": self.options.protected_last, "budget": size.budget}
            acts |= {"head_budgets": size.head_budgets, "kept_fraction": size.kept_fraction}
        if spec.name.options:
            acts |= {"options": dict(spec.name.options)}
        if spec.is_namm and self.namm is not None:
            acts |= {"namm_sha256": self.namm.sha256()}
        if spec.statistics == "target":
            acts |= {"calibration": self.statistics.described(self.model, self.options.interval)}
        if spec.keep is not None:
            acts |= {"sizing": self._sizing()}
        identity = {
            "modality": self.modality,
            **self.facts,
            **self.exam.identity(),
            **acts,
            **{name: versions[name] for name in ("torch", "transformers", "namm_suite")},
        }
        return Cell(f"{self.model_name}/{self.exam.name}", self.exam.name, spec.label, seed, identity)

    def run(self, unit: Unit, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Reads and answers the prompts of each cell and returns the content of its row."""
        return [self._row(unit, cell) for cell in cells]

    def _row(self, unit: Unit, cell: Cell) -> dict[str, Any]:
        asked = self.exam.prompts(cell.seed)
        once = self._schedule(unit) == "prompt"
        if once:  # what is judged at once must be whole steps of a NAMM
            asked = replace(asked, prompts=tuple(prompt.aligned(HOP) for prompt in asked.prompts))
        traced = traced_place(asked, self.options.trace_tokens) if cell.seed == self.options.trace_seed else None
        journal = Journal(self.folder, cell.key)
        for size, groups in self._by_size(unit, asked.prompts):
            policy = self._policy(unit, size, cell.seed)
            left = [_without(group, journal.answers) for group in groups]
            left = [group for group in left if group.members]
            options = self.options
            # what is judged once is judged after one call: the whole context
            share, chunk = options.share and not once, None if once else options.chunk
            for batch in batches_of(left, asked.prompts, options.batch, options.batch_tokens, share):
                watched = frozenset() if traced is None else frozenset([traced])
                answers, costs = read(self.model, policy, asked.prompts, batch, self.exam.finished, chunk, watched)
                texts = {place: self.exam.answer_text([answer]) for place, answer in answers.items() if answer.tokens}
                journal.add(answers, costs, texts)
        return self._content(unit, asked, journal.answers, journal.costs, traced, self._policy(unit, unit.size, 0))

    def _by_size(self, unit: Unit, prompts: Sequence[Prompt]) -> list[tuple[Size, list[Group]]]:
        """The groups, divided by the budgets they get; in one part where all get the same."""
        groups, fraction = groups_of(prompts), unit.size.kept_fraction
        if fraction is None:
            return [(unit.size, groups)]
        least = unit.spec.protected_first + self.options.protected_last
        parts: dict[int, list[Group]] = {}
        for group in groups:
            for member in group.members:  # a beginning can only be shared under one budget
                budget = max(least, round(fraction * len(prompts[member].context)))
                parts.setdefault(budget, []).append(Group((member,), len(prompts[member].context), group.identity))
        return [(Size(budget=budget), found) for budget, found in parts.items()]

    def _policy(self, unit: Unit, size: Size, seed: int) -> Policy:
        spec, options = unit.spec, self.options
        told: dict[str, Any] = {"interval": options.interval, "protected_last": options.protected_last}
        told |= {"budget": size.budget, "head_budgets": size.head_budgets, "schedule": options.schedule}
        if size.kept_fraction is not None and size.budget is None:
            told["budget"] = 10**9  # described, never used: every prompt has its own
        if spec.takes("seed"):
            told["seed"] = seed
        if spec.takes("special_ids") and self.tokenizer is not None:
            told |= token_kinds(self.tokenizer)
        if spec.takes("request") and self.tokenizer is not None:
            told |= requests(self.tokenizer)
        if spec.is_namm:
            told["namm"] = self.namm
        if spec.statistics == "target":
            told["target_statistics"] = self.statistics.of(self.model, self.namm, options.interval)
        if spec.keep is not None:
            told["threshold"] = self._sized(unit, told).threshold
        return spec.make(**told)

    def _sized(self, unit: Unit, told: Mapping[str, Any]) -> Sized:
        """The threshold of a policy that is to keep a part of the tokens, and what it kept where that was found."""
        spec, options = unit.spec, self.options
        assert spec.keep is not None  # asked of such a policy alone
        free = {**told, "budget": None, "head_budgets": None, "schedule": "interval"}

        def under(threshold: float) -> Policy:
            return spec.make(**{**free, "threshold": threshold})

        if self.exam.drawn:
            drawn = self.exam.prompts(SIZING_SEED).prompts[:SIZING_PROMPTS]
            texts: Sequence[Sequence[int]] = [(*prompt.context, prompt.question[0]) for prompt in drawn]
            return self.statistics.sized_on(self.model, self._name(unit), under, spec.keep, texts)
        return self.statistics.sized(self.model, self._name(unit), under, spec.keep, options.interval)

    def _sizing(self) -> dict[str, Any]:
        """What sizes are found on, for the key of a row."""
        if not self.exam.drawn:
            return self.statistics.described_sizing(self.model, self.options.interval)
        told = {"seed": SIZING_SEED, "prompts": SIZING_PROMPTS, **described()}
        return {"text": "the task's own prompts, without their questions", **told}

    def _name(self, unit: Unit) -> tuple[str, str]:
        """Of what is sized: the NAMM, if it is one, how it is used, and where its size is found."""
        task = f"{unit.target}: " if self.exam.drawn else ""
        namm = self.namm.sha256() if self.namm is not None and unit.spec.is_namm else ""
        return namm, f"{task}{unit.spec.label}"

    def _schedule(self, unit: Unit) -> str:
        """When a unit's policy judges: as it says itself, else as all do."""
        return unit.spec.option("schedule", self.options.schedule)

    def _content(
        self, unit: Unit, asked: ExamPrompts, answers: Mapping[int, Answer], costs: Sequence[Costs],
        traced: int | None, policy: Policy,
    ) -> dict[str, Any]:  # fmt: skip
        graded = []
        for place, (name, members) in enumerate(zip(asked.ids, asked.members, strict=True)):
            given = [answers[member] for member in members]
            grade = self.exam.grade(asked, place, given)
            document = asked.documents[place] if asked.documents else None
            about = {} if document is None else {"document": document}
            graded.append({"id": name, **about, **grade, "slots": given[0].slots, "tokens": given[0].context_tokens})
        firsts = [answers[members[0]] for members in asked.members]
        return {
            "score": mean_of(graded, "score"),
            "score_name": self.exam.score_name,
            "metrics": {**_measured(graded, firsts, costs), **asked.facts},
            "prompts": graded,
            "memory": {
                "asked_to_evict": not unit.spec.is_reference,
                "kept_fraction_asked": unit.size.kept_fraction,
                "settings": _without_sizes(policy.describe()),
                **({} if unit.spec.keep is None else {"sized": self.statistics.found(self._name(unit))}),
                **unit.facts(),
            },
            "protocol": {
                **self.exam.protocol(),
                "updates": "once, after the context"
                if self._schedule(unit) == "prompt"
                else f"every {self.options.interval} tokens",
                "protected_last": self.options.protected_last,
            },
            "trace": None if traced is None else told_trace(self.exam, asked, traced, answers, self.tokenizer),
            "seconds": round(sum(cost.prefill_seconds + cost.decode_seconds for cost in costs), 3),
        }


def _without(group: Group, known: Mapping[int, Answer]) -> Group:
    left = tuple(member for member in group.members if member not in known)
    return Group(left, group.shared, group.identity)


def _without_sizes(described: dict[str, object]) -> dict[str, object]:
    """What a policy says of itself, less what is in the identity of the cell."""
    return {name: value for name, value in described.items() if name not in ("head_budgets", "budget")}


def _measured(graded: Sequence[Mapping[str, Any]], answers: Sequence[Answer], costs: Sequence[Costs]) -> dict[str, Any]:
    held = np.mean([answer.held.numpy() for answer in answers], axis=0)
    extras = [name for name in graded[0] if isinstance(graded[0][name], float) and name not in ("score", "slots")]
    return {**measured(graded, held, costs), **{name: mean_of(graded, name) for name in extras}}
