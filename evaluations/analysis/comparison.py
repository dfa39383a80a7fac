"""All targets together: NAMM against every rival, targets weighing the same.

Only targets whose score is a percentage can be averaged; raw returns and log-likelihoods are left out by name. A policy
is averaged if it ran on every such target, and compared with NAMM on the targets where both ran. NAMM is each target's
contender (evaluations/analysis/summary.py), so no variant is chosen on the trials it is judged on, and the rivals are
those of equal mean size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluations.analysis.aggregates import (
    aggregate,
    interquartile_mean_of_runs,
    mean_of_tasks,
    optimality_gap,
    paired_over_tasks,
    probability_of_improvement,
)
from evaluations.analysis.clusters import Task, mapped
from evaluations.analysis.estimates import Estimate, PairedDifference, holm
from evaluations.analysis.summary import BOOTSTRAP_SEED, PolicySummary, TargetSummary, differences
from evaluations.rows.policy_names import is_namm

CONTENDER = "NAMM"
"""Label of the targets' contenders, taken together."""


@dataclass(frozen=True)
class Aggregates:
    """Scores of one policy over all comparable targets. Percentages; larger is better, save for the gap."""

    mean: Estimate
    interquartile: Estimate
    gap: Estimate
    """Optimality gap: by how much runs miss 100 on average."""
    relative: Estimate | None
    """Mean over targets of score / score of the reference; None where a reference is not positive."""
    kept: float | None
    """Mean over targets of slots held / slots held by the full cache."""


@dataclass(frozen=True)
class Entry:
    """One policy on all comparable targets."""

    name: str
    by_target: dict[str, PolicySummary]
    aggregates: Aggregates | None
    """None where it did not run on every target."""
    improvement: Estimate | None = None
    """Probability that a trial of NAMM scores above one of this policy."""
    versus_namm: PairedDifference | None = None
    """NAMM minus this policy, mean over targets, on shared trials."""

    @property
    def is_namm(self) -> bool:
        """True for the contender and for every variant."""
        return self.name == CONTENDER or is_namm(self.name)

    @property
    def is_reference(self) -> bool:
        """True for what nobody asked to forget, and for the oracle, which was shown what is to come."""
        return next(iter(self.by_target.values())).is_reference

    @property
    def is_rival(self) -> bool:
        """True for what NAMM is compared with at equal size."""
        return not self.is_namm and not self.is_reference

    def tasks(self) -> list[Task]:
        """Scores as one array (seeds, trials) a target."""
        return [policy.scores() for policy in self.by_target.values()]


@dataclass(frozen=True)
class Comparison:
    """Every policy over the comparable targets: NAMM first, then its variants, references, and rivals by mean score."""

    targets: tuple[TargetSummary, ...]
    left_out: tuple[str, ...]
    """Targets whose score is no percentage."""
    entries: tuple[Entry, ...]

    @property
    def contender(self) -> Entry | None:
        """NAMM as it is compared."""
        return next((entry for entry in self.entries if entry.name == CONTENDER), None)

    def get(self, name: str) -> Entry | None:
        """An entry by its name."""
        return next((entry for entry in self.entries if entry.name == name), None)


def compare(targets: Sequence[TargetSummary]) -> Comparison:
    """Aggregates of every policy, and NAMM against each of them."""
    scored = [t for t in targets if t.score_kind.percentage]
    left_out = tuple(t.target for t in targets if not t.score_kind.percentage)
    names = list(dict.fromkeys(policy.policy for target in scored for policy in target.policies))
    groups = {name: {t.target: p for t in scored if (p := t.get(name))} for name in names}
    contenders = {t.target: t.contender for t in scored if t.contender}
    entries = [_entry(name, group, scored) for name, group in groups.items()]
    if contenders:
        ours = _entry(CONTENDER, contenders, scored)
        entries = [ours, *_compared(entries, ours)]
    return Comparison(tuple(scored), left_out, tuple(sorted(entries, key=_order)))


def _entry(name: str, by_target: dict[str, PolicySummary], targets: Sequence[TargetSummary]) -> Entry:
    whole = len(by_target) == len(targets)
    return Entry(name, by_target, _aggregates(by_target, targets) if whole else None)


def _aggregates(by_target: dict[str, PolicySummary], targets: Sequence[TargetSummary]) -> Aggregates:
    tasks = [by_target[target.target].scores() for target in targets]
    references = [target.reference.score.value if target.reference else 0.0 for target in targets]
    relative = None
    if min(references) > 0:
        scaled = [
            mapped(scores, lambda values, reference=reference: 100.0 * values / reference)
            for scores, reference in zip(tasks, references, strict=True)
        ]
        relative = aggregate(scaled, BOOTSTRAP_SEED)
    sizes = []
    for target in targets:
        held, full = by_target[target.target].metric("slots_mean"), target.get("full")
        most = full.metric("slots_mean") if full else None
        sizes.append(held / most if held is not None and most else None)
    return Aggregates(
        mean=aggregate(tasks, BOOTSTRAP_SEED, mean_of_tasks),
        interquartile=aggregate(tasks, BOOTSTRAP_SEED, interquartile_mean_of_runs),
        gap=aggregate(tasks, BOOTSTRAP_SEED, optimality_gap),
        relative=relative,
        kept=None if None in sizes else float(np.mean(sizes)),
    )


def _compared(entries: Sequence[Entry], ours: Entry) -> list[Entry]:
    found = {entry.name: _against(entry, ours) for entry in entries if not entry.is_namm}
    for group in ("is_rival", "is_reference"):
        paired = {e.name: found[e.name][1] for e in entries if getattr(e, group) and e.name in found}
        tests = {name: test for name, test in paired.items() if test is not None}
        corrected = holm([test.p_value for test in tests.values()])
        for (name, test), p_value in zip(tests.items(), corrected, strict=True):
            found[name] = (found[name][0], replace(test, adjusted=p_value))
    return [
        replace(entry, improvement=found[entry.name][0], versus_namm=found[entry.name][1])
        if entry.name in found
        else entry
        for entry in entries
    ]


def _against(entry: Entry, ours: Entry) -> tuple[Estimate | None, PairedDifference | None]:
    shared = [target for target in entry.by_target if target in ours.by_target]
    if not shared:
        return None, None
    first, second = ([e.by_target[target] for target in shared] for e in (ours, entry))
    improvement = probability_of_improvement([p.scores() for p in first], [p.scores() for p in second], BOOTSTRAP_SEED)
    paired = [differences(a, b) for a, b in zip(first, second, strict=True)]
    known = [difference for difference in paired if difference is not None]
    return improvement, paired_over_tasks(known, BOOTSTRAP_SEED) if known else None


def _order(entry: Entry) -> tuple[bool, bool, bool, float]:
    mean = entry.aggregates.mean.value if entry.aggregates else -np.inf
    return entry.name != CONTENDER, not entry.is_namm, not entry.is_reference, -mean
