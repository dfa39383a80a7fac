"""Cells of a control experiment: a Decision Transformer plays the seeds' episodes under one memory policy.

The seeds of a policy run as one batch, which is what makes it fast; a seed run alone agrees to floating-point rounding.
Beside the keys of evaluations/rows/results.py a row holds:

    metrics     means over episodes: return, normalised_score, success, episode_length; slots_mean, slots_peak (per KV
                head, mean over layers and heads), bytes_* and state_bytes_* (per episode), tokens_seen, kept_fraction
                and kept_fraction_R / _s / _a (held / seen, mean over time), evicted (per KV head), updates,
                ms_per_env_step (model, memory and policy; without the simulator), env_steps
                cue_held and cue_heads, where the environment shows cues (evaluations/control/cues.py): share of the
                cues whose state token at least one (layer, head) held when it was needed, and share of (cue, layer,
    head) that did episodes    reset_seed, return, normalised_score, success, length, score, slots_mean, slots_peak,
    and cue_held memory      asked_to_evict, recomputed (no cache), role (reference: nobody asks it to forget, free:
                NAMM decides its size, matched: it has NAMM's, given: --budget, curve: a point of score against size,
                where NAMM ranks and the budget alone decides), and for a matched budget: matched_to, asked, predicted,
                matched_by ("declared" where --match named the NAMM, "best" where scores chose it)
    retention   kept fraction: layers [layer][age], heads [layer][head][age] (bins between age_edges, environment
                steps), mean over time; kinds {R, s, a: [time]} and ages [time][age] at the times `steps`, mean over
                layers and heads. Null where no token was ever so old
    cue         null without cues, else layers, heads, and one entry an episode (null if it saw none). For each cue: the
                step that shows it last (shown), the step that needs it (asked), how many steps after `shown` its state
                token was first gone from each (layer, head) (lost [cue][layer * head]) and its neighbours R and a from
                the last one (lost_R, lost_a), null where held to the end
    trace       one episode's memory and actions (first seed only)
    remarks     what was assumed about the target, what its data contradict, episodes that never told of success
    comparability   verdict and reason: may the normalised score stand beside D4RL's; null where D4RL has no such robot
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from evaluations.analysis.survival import held_when_asked
from evaluations.control.holdings import MemoryHoldings, WindowHoldings
from evaluations.control.plan import PROTECTED_LAST, threshold
from evaluations.control.replay import ActionRecorder, encode_actions
from evaluations.control.retention import BatchObserver, RetentionBook
from evaluations.control.sizes import tokens_seen
from evaluations.control.trials import TRIALS
from evaluations.experiment.contract import Unit
from evaluations.experiment.names import NamedPolicy
from evaluations.rows.policy_names import NATIVE, former
from evaluations.rows.results import Cell
from evaluations.rows.score_kinds import ScoreKind, as_success_rate
from evaluations.tasks.control.comparability import comparability
from evaluations.tasks.control.d4rl import normalised_score
from modalities import attach
from modalities.control.agents import ControlModel, IncrementalAgent, WindowAgent
from modalities.control.rollout import Agent, EpisodeResult, Rollout, SimulatorPool, rollout
from namm import NAMM, MemoryReport
from namm.calibration import Calibration
from namm.features import FeatureStatistics
from namm.policies import Policy
from namm.sizing import Sized, described, found_size
from namm.stores import StoreName

RESET_SEEDS = 10_000
"""The reset seeds of seed s are (s + 1) * RESET_SEEDS + 0, 1, 2, ..."""
CALIBRATION_SEEDS = 5_000_000
"""First reset seed of the episodes that target statistics are estimated on: never one that is scored."""
CALIBRATION_EPISODES = 4


@dataclass(frozen=True)
class ControlTarget:
    """A model, the environment it acts in, and how many episodes of it make one seed."""

    name: str
    checkpoint: str
    env_id: str
    target_return: float
    episodes: int
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    checkpoint_sha256: str = ""
    remarks: tuple[str, ...] = ()
    """What was assumed about it, for people to read; also in every row."""
    score: ScoreKind = "auto"
    """What its score is; auto: a success rate where the environment tells of success, else a return."""

    def reset_seeds(self, seed: int) -> list[int]:
        """The episodes of a seed, the same for every policy."""
        return [(seed + 1) * RESET_SEEDS + index for index in range(self.episodes)]


class ControlRunner:
    """Runs the cells of one target.

    Args:
        target: Model and environment.
        control: The loaded model.
        interval: Tokens between two updates.
        namm: Attached by the namm policies; None where none of them runs.
        trace_seed: The seed whose first episode is recorded in detail.
        simulators: Processes that step the environments, or a pool of them; they change no row.
        lanes: Parts that a large batch is divided into (:func:`modalities.control.rollout.rollout`).
        store: How memories hold what is kept (:class:`namm.Memory`).
    """

    modality: ClassVar[str] = TRIALS.modality

    def __init__(
        self,
        target: ControlTarget,
        control: ControlModel,
        interval: int,
        namm: NAMM | None,
        trace_seed: int,
        simulators: SimulatorPool | int = 0,
        lanes: int = 2,
        store: StoreName = "packed",
    ) -> None:
        self.target, self.control, self.interval, self.namm = target, control, interval, namm
        self.trace_seed, self.simulators, self.lanes = trace_seed, simulators, lanes
        self.store: StoreName = store
        self._target_statistics: FeatureStatistics | None = None
        self._sized: dict[str, Sized] = {}

    def attached(self, namm: NAMM) -> Self:
        """A runner of the same target with another NAMM."""
        namm = namm.to(self.control.device)
        common = (self.trace_seed, self.simulators, self.lanes, self.store)
        return type(self)(self.target, self.control, self.interval, namm, *common)

    def cell(self, unit: Unit, seed: int, versions: Mapping[str, str]) -> Cell:
        """One cell of a unit, its identity holding everything that decides the result.

        Args:
            unit: Policy and size.
            seed: Chooses the episodes, and the draws of policies that draw.
            versions: Of the packages; those of the simulator and of this project enter the identity.
        """
        spec = unit.spec
        target, facts = self.target, self.control.facts
        uses_cache = spec.label != NATIVE
        acts = {} if not uses_cache else {"interval": self.interval, "budget": unit.budget}
        if not spec.is_reference:
            acts |= {"protected_first": spec.protected_first, "protected_last": PROTECTED_LAST}
        if spec.is_namm and self.namm is not None:
            acts |= {"statistics": spec.statistics, "namm_sha256": self.namm.sha256()}
        if spec.statistics == "target":
            acts |= {"calibration": [CALIBRATION_SEEDS, CALIBRATION_EPISODES]}
        if spec.keep is not None:
            acts |= {"sizing": {"seeds": CALIBRATION_SEEDS, "episodes": CALIBRATION_EPISODES, **described()}}
        if self.lanes != 2:
            acts |= {"lanes": self.lanes}  # rounds otherwise, and a long episode follows its rounding
        if self.store != "packed" and uses_cache:
            acts |= {"store": self.store}
        if spec.name.options:
            acts |= {"options": dict(spec.name.options)}
        if target.score != "auto":
            acts |= {"score": target.score}
        if unit.role == "curve":
            acts |= {"role": unit.role}  # its NAMM ignores the threshold, and no other row is a point of a curve
        identity = {
            "modality": "control",
            "env_id": target.env_id,
            "env_kwargs": dict(target.env_kwargs),
            "checkpoint_sha256": target.checkpoint_sha256,
            "facts": {k: v for k, v in asdict(facts).items() if k not in ("provenance", "env_id", "env_kwargs")},
            "device": self.control.device.type,
            "target_return": target.target_return,
            "reset_seeds": target.reset_seeds(seed),
            "max_steps": target.max_steps,
            **acts,
            **{name: versions[name] for name in ("gymnasium", "mujoco", "namm_suite")},
        }
        return Cell(target.name, target.env_id, spec.label, seed, identity, keyed_as=former(spec.label))

    def run(self, unit: Unit, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Plays the episodes of several seeds as one batch and returns the content of each seed's row.

        Args:
            unit: Policy and size.
            cells: Its cells, all or some.
        """
        spec = unit.spec
        started = time.perf_counter()
        sizes = [len(cell.identity["reset_seeds"]) for cell in cells]
        seeds = [] if unit.role == "curve" else [cell.seed for cell in cells]
        traced = seeds.index(self.trace_seed) if self.trace_seed in seeds else None
        with ExitStack() as stack:
            if spec.label == NATIVE:
                memory = None
                agent: Agent = WindowAgent(self.control)
                holdings: Any = WindowHoldings(agent.context_steps, sum(sizes))
            else:
                memory = stack.enter_context(attach(self.control.model.encoder, self._policy(unit), store=self.store))
                agent = IncrementalAgent(self.control, memory=memory)
                holdings = MemoryHoldings(memory)
            recorder = ActionRecorder(agent, None if traced is None else sum(sizes[:traced]))
            observer = BatchObserver(holdings, sizes, traced)
            played = self._play(recorder, [seed for cell in cells for seed in cell.identity["reset_seeds"]], observer)
            report = None if memory is None else memory.report()
        seconds = round((time.perf_counter() - started) / len(cells), 3)
        told = any(episode.success is not None for episode in played.episodes)
        contents = []
        for index, (cell, book) in enumerate(zip(cells, observer.books, strict=True)):
            episodes = played.episodes[observer.first[index] : observer.first[index] + sizes[index]]
            cue = observer.cue(index, [episode.length for episode in episodes])
            content = self._content(episodes, played, book, cue)
            if self.target.score == "success" or (self.target.score == "auto" and told):
                content = as_success_rate(content, TRIALS)
            if report is not None:
                self._add_peaks(content["metrics"], report, sum(sizes))
            trace = book.traced()
            if trace is not None:
                actions = recorder.actions()
                first = cell.identity["reset_seeds"][0]
                trace |= {"reset_seed": first, "actions": encode_actions(actions), "action_size": actions.shape[1]}
            memory_facts = {
                "asked_to_evict": not spec.is_reference,
                "recomputed": spec.label == NATIVE,
                **unit.facts(),
                **({} if spec.keep is None else {"sized": self._sized[spec.label]._asdict()}),
            }
            seen = {"retention": book.retention(), "cue": cue, "trace": trace, "seconds": seconds}
            contents.append({**content, "memory": memory_facts, **seen})
        return contents

    def _play(self, agent: Agent, seeds: Sequence[int], observer: BatchObserver | None = None) -> Rollout:
        return rollout(
            agent,
            self.target.env_id,
            seeds,
            self.target.target_return,
            env_kwargs=dict(self.target.env_kwargs),
            on_step=observer,
            on_start=None if observer is None else observer.start,
            max_steps=self.target.max_steps,
            simulators=self.simulators,
            lanes=self.lanes,
        )

    @staticmethod
    def _add_peaks(metrics: dict[str, Any], report: MemoryReport, sequences: int) -> None:
        """Between two observations, just before an update, more is held than any observation saw."""
        metrics["updates"] = float(report.updates)
        metrics["bytes_peak"] = max(metrics["bytes_peak"], report.peak_cache_bytes / sequences)
        metrics["state_bytes_peak"] = max(metrics["state_bytes_peak"], report.peak_state_bytes / sequences)

    def _policy(self, unit: Unit) -> Policy:
        spec = unit.spec
        options: dict[str, Any] = {
            "interval": self.interval,
            "budget": unit.budget,
            "protected_first": spec.protected_first,
            "protected_last": PROTECTED_LAST,
        }
        if spec.is_namm:
            options |= {"namm": self.namm, "threshold": threshold(unit)}
        if spec.statistics == "target":
            options["target_statistics"] = self.target_statistics()
        if spec.keep is not None:
            options["threshold"] = self._threshold(spec, options)
        return spec.make(**options)

    def _threshold(self, spec: NamedPolicy, options: Mapping[str, Any]) -> float:
        """That of a policy that is to keep a part of the tokens: found on episodes that are never scored.

        Args:
            spec: The policy.
            options: What else it is made of.
        """
        assert spec.keep is not None  # asked of such a policy alone

        def under(threshold: float) -> Policy:
            return spec.make(**{**options, "budget": None, "threshold": threshold})

        if spec.label not in self._sized:
            self._sized[spec.label] = found_size(under, self._held, spec.keep)
        return self._sized[spec.label].threshold

    def _held(self, policy: Policy) -> float:
        """Slots held / tokens seen, each meaned over an episode's steps, then over the episodes of calibration."""
        seeds = [CALIBRATION_SEEDS + index for index in range(CALIBRATION_EPISODES)]
        with attach(self.control.model.encoder, policy, store=self.store) as memory:
            observer = BatchObserver(MemoryHoldings(memory), [len(seeds)], None)
            played = self._play(IncrementalAgent(self.control, memory=memory), seeds, observer)
        held = [observer.books[0].episode(index)["slots_mean"] for index in range(len(seeds))]
        seen = [tokens_seen(episode.length).mean() for episode in played.episodes]
        return float(np.mean(held) / np.mean(seen))

    def target_statistics(self) -> FeatureStatistics | None:
        """The target's own feature statistics: a full-cache pass without labels over episodes that are never scored."""
        if self._target_statistics is None and self.namm is not None:
            encoder = self.control.model.encoder
            calibration = Calibration(self.namm, self.interval, layers=encoder.config.n_layer)
            with attach(encoder, calibration) as memory:
                seeds = [CALIBRATION_SEEDS + index for index in range(CALIBRATION_EPISODES)]
                self._play(IncrementalAgent(self.control, memory=memory), seeds)
            self._target_statistics = calibration.statistics()
        return self._target_statistics

    def _content(
        self, played: Sequence[EpisodeResult], batch: Rollout, book: RetentionBook, cue: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        reference = self.control.facts.reference_scores
        held = [e and held_when_asked(e) for e in cue["episodes"]] if cue else [None] * len(played)
        shown = [by_head for by_head in held if by_head is not None]
        episodes = []
        for index, (episode, cues) in enumerate(zip(played, held, strict=True)):
            normalised = None if reference is None else normalised_score(episode.total, reference)
            episodes.append(
                {
                    "reset_seed": episode.seed,
                    "return": episode.total,
                    "normalised_score": normalised,
                    "success": episode.success,
                    "length": episode.length,
                    "score": float(episode.total if normalised is None else normalised),
                    **book.episode(index),
                    **({} if cues is None else {"cue_held": float(cues.any(axis=1).mean())}),
                }
            )
        verdict = comparability(self.target.env_id)
        return {
            "score": _mean(episodes, "score"),
            "score_name": "return" if reference is None else "normalised score",
            "remarks": list(self.target.remarks),
            "comparability": None if verdict is None or reference is None else asdict(verdict),
            "metrics": {
                "return": _mean(episodes, "return"),
                "normalised_score": _mean(episodes, "normalised_score"),
                "success": _mean(episodes, "success"),
                "episode_length": _mean(episodes, "length"),
                **book.metrics(),
                "cue_held": float(np.mean([by_head.any(axis=1).mean() for by_head in shown])) if shown else None,
                "cue_heads": float(np.mean([by_head.mean() for by_head in shown])) if shown else None,
                "ms_per_env_step": 1000.0 * batch.agent_seconds / batch.steps,
                "env_steps": float(sum(episode.length for episode in played)),
            },
            "episodes": episodes,
        }


def _mean(episodes: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [episode[name] for episode in episodes]
    return None if None in values else float(np.mean(values))
