"""Cells of a video experiment: one policy watches the videos of one task and seed, and answers.

Beside the keys of evaluations/rows/results.py a row holds:

    metrics     those of evaluations/experiment/prompt_measures.py, and answered (share of answers that could be read),
                evidence_kept (share of the slots of the frames that show the answer), kept_by_relevance and
                kept_by_novelty (rank correlations, mean over questions), vision_seconds (encoding each clip once),
                failed (questions that could not be asked)
    questions   id, clip, kind, score, said, chosen, expected, slots, tokens, question_tokens, frames, age (frames seen
                after the last one that shows the answer), evidence_kept, kept_by_relevance, kept_by_novelty, and what
                tasks group by
    failed      id and error of each question that could not be asked; not scored
    past_window what there is to say where prompts are longer than what the model was trained to read; else null
    words       by label, how much was kept of the frames that it fits best, and how many these are
    memory      asked_to_evict, role (reference, free, matched, given), matched_to, asked, settings of the policy
    protocol    how questions were made and answered
    trace       one question, its frames (JPEG, base64), and what was kept of each; first seed only
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.experiment.contract import Unit
from evaluations.experiment.prompt_measures import mean_of, measured
from evaluations.rows.results import Cell
from evaluations.tasks.video.base import VideoTask
from evaluations.vision.journal import Journal
from evaluations.vision.loading import LoadedModel
from evaluations.vision.plan import FRAME_SELECTION, NEED_CLIP
from evaluations.vision.trace import told_trace
from evaluations.vision.trials import ACCURACY, TRIALS
from evaluations.vision.watching import Failed, Watched, Watching, rank_correlation
from modalities.language.foresight import requests
from modalities.vision.prompts import ScenePrompt
from modalities.vision.reading import Reading, read
from namm import NAMM, Memory, NAMMConfig
from namm.errors import DataError
from namm.policies import Policy, make_policy
from namm.sizing import Sized, described, found_size

HOP = NAMMConfig().hop
"""Queries of one step of a NAMM's spectra."""
CALIBRATION_SEED = 5_000_000
"""Of the clips on which sizes are found, where clips are drawn: never one that is scored."""
CALIBRATION_QUESTIONS = 4
"""Where they are not drawn, the first of the task; what is right is not looked at."""


@dataclass(frozen=True)
class WatchingOptions:
    """How videos are read."""

    interval: int
    """Tokens between two updates."""
    schedule: Literal["interval", "prompt"]
    protected_last: int
    batch: int
    chunk: int | None
    trace_seed: int


@dataclass
class VideoRunner:
    """Runs the cells of one task."""

    name: str
    """Of the task."""
    task: VideoTask
    watching: Watching
    loaded: LoadedModel
    namm: NAMM | None
    options: WatchingOptions
    folder: Path
    modality: ClassVar[str] = TRIALS.modality
    _sized: dict[str, Sized] = field(default_factory=dict, repr=False)
    """By policy."""

    def attached(self, namm: NAMM) -> Self:
        """A runner of the same task with another NAMM."""
        return replace(self, namm=namm.to(self.loaded.model.device), _sized={})

    def cell(self, unit: Unit, seed: int, versions: Mapping[str, str]) -> Cell:
        """One cell of a unit, its identity holding everything that decides the result."""
        spec, size = unit.spec, unit.size
        acts: dict[str, Any] = {"interval": self.options.interval, "schedule": self._schedule(unit)}
        if not spec.is_reference:
            acts |= {"protected_last": self.options.protected_last, "budget": size.budget}
            acts |= {"head_budgets": size.head_budgets}
        if spec.name.options:
            acts |= {"options": dict(spec.name.options)}
        if spec.is_namm and self.namm is not None:
            acts |= {"namm_sha256": self.namm.sha256()}
        if spec.keep is not None:
            seed_of_clips = CALIBRATION_SEED if self.task.drawn else "as asked"
            acts |= {"sizing": {"seed": seed_of_clips, "questions": CALIBRATION_QUESTIONS, **described()}}
        if unit.role == "curve":
            acts |= {"role": unit.role}  # its NAMM ignores the threshold
        judge = self.watching.judge
        if judge is not None:  # what is told of every policy depends on it, too
            acts |= {"clip": judge.name, "clip_sha256": judge.sha256, "labels": list(self.watching.labels)}
        identity = {
            "modality": self.modality,
            **self.loaded.facts,
            "asked": self.task.protocol(),
            "limit": self.watching.limit,
            **acts,
            **{name: versions[name] for name in ("torch", "transformers", "namm_suite")},
        }
        return Cell(f"{self.loaded.name}/{self.name}", self.name, spec.label, seed, identity)

    def run(self, unit: Unit, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Asks the questions of each cell and returns the content of its row."""
        return [self._row(unit, cell) for cell in cells]

    def _row(self, unit: Unit, cell: Cell) -> dict[str, Any]:
        journal = Journal(self.folder, cell.key)
        failed: list[Failed] = []
        policy = self._policy(unit, cell.seed)
        done = journal.asked
        for batch in self._batches(unit, cell.seed, failed):
            left = [watched for watched in batch if watched.item.id not in done]
            if left:
                traced = cell.seed == self.options.trace_seed and unit.role != "curve" and journal.trace is None
                self._ask(unit, policy, left, journal, traced)
        if not journal.trials:
            first = f"; the first of them: {failed[0].error}" if failed else ""
            raise DataError(
                f"expected a question of {self.name} that can be asked, found {len(failed)} that cannot{first}"
            )
        return self._content(unit, journal, failed, policy)

    def _batches(self, unit: Unit, seed: int, failed: list[Failed]) -> Iterator[list[Watched]]:
        """Questions in batches, in the order of the data; those that cannot be asked go where faults are listed."""
        batch: list[Watched] = []
        for one in self.watching.questions(seed):
            try:
                if isinstance(one, Watched):
                    batch.append(self._for(unit, one))
                else:
                    failed.append(one)
            except DataError as error:
                failed.append(Failed(one.item.id if isinstance(one, Watched) else one.id, str(error)))
            if len(batch) == self.options.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def _for(self, unit: Unit, watched: Watched) -> Watched:
        """The question as a unit's policy is asked it."""
        if unit.spec.name.base == FRAME_SELECTION:
            return self.watching.chosen(watched, self._frames_for(unit, watched))
        if self._schedule(unit) == "prompt":  # what is judged at once must be whole steps of a NAMM
            aligned = watched.prompt.aligned(HOP)
            assert isinstance(aligned, ScenePrompt)
            return replace(watched, prompt=aligned)
        return watched

    def _frames_for(self, unit: Unit, watched: Watched) -> int:
        """As many frames as hold no fewer tokens than the NAMM held, text included."""
        asked = unit.matched.asked if unit.matched else float(unit.budget or 0)
        places = watched.prompt.scene.places
        each = float(places.frame_tokens().float().mean()) / places.frames_per_token
        text = len(watched.prompt.context) - each * places.frames
        return min(watched.frames, max(1, ceil((asked - text) / each)))

    def _ask(self, unit: Unit, policy: Policy, batch: Sequence[Watched], journal: Journal, traced: bool) -> None:
        """Asks a batch and keeps what came of it."""
        kept: dict[int, Float[Tensor, " frames"]] = {}

        def look(memory: Memory, places: Sequence[int]) -> None:
            for row, place in enumerate(places):
                kept[place] = kept_share(memory, row, batch[place])

        prompts = [watched.prompt for watched in batch]
        reading = read(
            self.loaded.model, policy, prompts, self.loaded.store, self.loaded.finished, self._chunk(unit), look=look
        )
        shares = [kept[place] for place in range(len(batch))]
        texts = [self.loaded.words(answer.tokens) for answer in reading.answers]
        trials = [
            self._graded(watched, reading, place, texts[place], shares[place]) for place, watched in enumerate(batch)
        ]
        words: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        for watched, share in zip(batch, shares, strict=True):
            for label, part in zip(watched.judged.words if watched.judged else (), share.tolist(), strict=False):
                words[self.watching.labels[label]][0] += part
                words[self.watching.labels[label]][1] += 1
        seconds = {w.item.clip: self.loaded.store.of(w.prompt.scene.inputs, w.prompt.scene.key).seconds for w in batch}
        held = np.sum([answer.held.numpy() for answer in reading.answers], axis=0)
        trace = None
        if traced:
            shown = max(range(len(batch)), key=lambda place: batch[place].age or 0)
            trace = told_trace(batch[shown], shares[shown], texts[shown], self.watching.labels)
        found = {word: (total, int(count)) for word, (total, count) in words.items()}
        journal.add(trials, reading.costs, held, found, seconds, trace)

    def _graded(
        self, watched: Watched, reading: Reading, place: int, text: str, share: Float[Tensor, " frames"]
    ) -> dict[str, Any]:
        item, answer, judged = watched.item, reading.answers[place], watched.judged
        chosen = self.task.chosen(item, text)
        evidence = float(share[list(watched.evidence)].mean()) if watched.evidence else None
        # a clip read whole: how much of it there was to keep, whatever was chosen before
        tokens = (
            answer.context_tokens / len(watched.shown) * watched.frames if len(watched.shown) < watched.frames else 0
        )
        return {
            "id": item.id,
            "clip": item.clip,
            "kind": item.kind,
            "score": 100.0 * (chosen == item.answer),
            "said": text,
            "chosen": chosen,
            "expected": item.answer,
            "slots": answer.slots,
            "tokens": round(tokens) or answer.context_tokens,
            "question_tokens": len(watched.prompt.question),
            "frames": watched.frames,
            "age": watched.age,
            "evidence_kept": evidence,
            "kept_by_relevance": rank_correlation(share, judged.relevance) if judged else None,
            "kept_by_novelty": rank_correlation(share[1:], judged.novelty[1:]) if judged else None,
            **item.groups,
        }

    def _chunk(self, unit: Unit) -> int | None:
        """What is judged once is judged after one call: the whole context."""
        return None if self._schedule(unit) == "prompt" else self.options.chunk

    def _schedule(self, unit: Unit) -> str:
        """When a unit's policy judges: as it says itself, else as all do."""
        return unit.spec.option("schedule", self.options.schedule)

    def _policy(self, unit: Unit, seed: int) -> Policy:
        spec, options, size = unit.spec, self.options, unit.size
        if spec.name.base == FRAME_SELECTION:
            return make_policy("full")
        told: dict[str, Any] = {"interval": options.interval, "protected_last": options.protected_last}
        told |= {"budget": size.budget, "head_budgets": size.head_budgets, "schedule": options.schedule}
        if spec.takes("seed"):
            told["seed"] = seed
        if spec.takes("request"):
            told |= requests(self.loaded.tokenizer)
        if spec.is_namm:
            told["namm"] = self.namm
            if unit.role == "curve":  # the budget alone decides, as for its rivals
                told["threshold"] = -inf
        if spec.keep is not None:
            told["threshold"] = self._size(unit, told).threshold
        return spec.make(**told)

    def _size(self, unit: Unit, told: Mapping[str, Any]) -> Sized:
        """The threshold of a policy that is to keep a part of the tokens, found on clips without their answers."""
        spec = unit.spec
        assert spec.keep is not None  # asked of such a policy alone

        def under(threshold: float) -> Policy:
            return spec.make(**{**told, "budget": None, "head_budgets": None, "threshold": threshold})

        if spec.label not in self._sized:
            seed = CALIBRATION_SEED if self.task.drawn else 0
            found = (one for one in self.watching.questions(seed) if isinstance(one, Watched))
            prompts = [one.prompt for one, _ in zip(found, range(CALIBRATION_QUESTIONS), strict=False)]
            self._sized[spec.label] = found_size(under, lambda policy: self._held(policy, prompts), spec.keep)
        return self._sized[spec.label]

    def _told_size(self, unit: Unit) -> dict[str, Any] | None:
        return None if unit.spec.keep is None else self._sized[unit.spec.label]._asdict()

    def _held(self, policy: Policy, prompts: Sequence[ScenePrompt]) -> float:
        """Slots held / tokens seen when the questions come, mean over them."""
        reading = read(self.loaded.model, policy, prompts, self.loaded.store, self.loaded.finished, self.options.chunk)
        return float(np.mean([answer.slots / answer.context_tokens for answer in reading.answers]))

    def _content(self, unit: Unit, journal: Journal, failed: Sequence[Failed], policy: Policy) -> dict[str, Any]:
        graded = journal.trials
        costs = journal.costs
        longest = max(trial["tokens"] + trial["question_tokens"] for trial in graded) + self.task.new_tokens
        settings = {name: value for name, value in policy.describe().items() if name not in ("head_budgets", "budget")}
        return {
            "score": mean_of(graded, "score"),
            "score_name": ACCURACY.name,
            "metrics": {
                **measured(graded, journal.head_slots, costs),
                "answered": float(np.mean([trial["chosen"] is not None for trial in graded])),
                **{
                    name: mean_known(graded, name) for name in ("evidence_kept", "kept_by_relevance", "kept_by_novelty")
                },
                "vision_seconds": journal.vision_seconds,
                "failed": len(failed),
            },
            "questions": graded,
            "failed": [one.told() for one in failed],
            "words": journal.words,
            "past_window": self.loaded.past_window(longest),
            "memory": {
                # frames that are not read need not be evicted
                "asked_to_evict": not unit.spec.is_reference and unit.spec.name.base != FRAME_SELECTION,
                "settings": settings,
                **({} if self._told_size(unit) is None else {"sized": self._told_size(unit)}),
                **unit.facts(),
            },
            "protocol": {
                **self.task.protocol(),
                "updates": "once, after the video"
                if self._schedule(unit) == "prompt"
                else f"every {self.options.interval} tokens",
                "protected_last": self.options.protected_last,
                "judged by": self.watching.judge.name
                if self.watching.judge and unit.spec.name.base in NEED_CLIP
                else None,
                "data": None if self.task.options.data is None else str(self.task.options.data),
            },
            "trace": journal.trace,
            "seconds": round(sum(cost.prefill_seconds + cost.decode_seconds for cost in costs), 3),
        }


def kept_share(memory: Memory, row: int, watched: Watched) -> Float[Tensor, " frames"]:
    """The share of each seen frame's slots that a memory holds; 0 for frames that were not read."""
    places = watched.prompt.scene.places
    total = places.frame_tokens().float().clamp_min(1)
    counted, heads = torch.zeros_like(total), 0
    for layer in memory.layers:
        positions = memory.kept_positions(layer)[row]
        counted += places.counted(positions.flatten().cpu())
        heads += positions.shape[0]
    share = torch.zeros(watched.frames)
    share[list(watched.shown)] = counted / (total * heads)
    return share


def mean_known(graded: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a value over the trials that have it; None where none has."""
    known = [trial[name] for trial in graded if trial[name] is not None]
    return float(np.mean(known)) if known else None
