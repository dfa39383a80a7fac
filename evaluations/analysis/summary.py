"""What the rows of an experiment say: one summary per target and policy.

The terminal's table, the Markdown file and the HTML report all show these summaries, so they cannot disagree. Rivals
are compared with the target's `contender`: a NAMM that was declared beforehand or stands alone, else the cross-fitted
one (evaluations/analysis/variants.py). Points of a score-against-size curve are another matter
(evaluations/analysis/curves.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluations.analysis.aggregates import aggregate, interquartile_of_trials, paired_over_tasks
from evaluations.analysis.clusters import Task, clustered
from evaluations.analysis.estimates import Estimate, PairedDifference, holm, success_rate
from evaluations.analysis.variants import declared, held_out
from evaluations.rows.file import Row, Trial
from evaluations.rows.policy_names import is_ceiling, is_namm
from evaluations.rows.trials import Score, Trials, document_of, of, trial_id, trials

NEGATIVE_CONTROL = "oldest"
"""Keeps the oldest tokens: a task on which it does well does not show that a policy remembers well."""

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class PolicySummary:
    """One policy on one target, over all its seeds and trials. Scores are percentages, larger is better."""

    target: str
    policy: str
    rows: tuple[Row, ...]
    score: Estimate
    interquartile: Estimate
    success: Estimate | None
    versus_namm: PairedDifference | None = None
    """The contender minus this policy on the same trials; None for NAMMs, or without any NAMM."""

    @property
    def described(self) -> Trials:
        """What its trials are."""
        return of(self.rows[0])

    @property
    def score_name(self) -> str:
        """What the score is, such as "success rate"."""
        return self.rows[0]["score_name"]

    @property
    def score_kind(self) -> Score:
        """The same, described."""
        return self.described.score(self.score_name)

    @property
    def is_namm(self) -> bool:
        """True for a NAMM, whatever its statistics."""
        return is_namm(self.policy)

    @property
    def is_reference(self) -> bool:
        """True for what nobody asked to forget, and for the oracle, which was shown what is to come."""
        return self.policy in self.described.references or is_ceiling(self.policy)

    @property
    def is_rival(self) -> bool:
        """True for what NAMM is compared with at equal size."""
        return not self.is_namm and not self.is_reference

    @property
    def budget(self) -> int | None:
        """Slots kept per KV head after an update, None where the policy decides for itself."""
        return self.rows[0]["identity"].get("budget")

    @property
    def trials(self) -> int:
        """How many, over all seeds."""
        return len(self.played())

    def played(self) -> list[Trial]:
        """Its trials, seed after seed."""
        return [trial for row in self.rows for trial in trials(row)]

    @property
    def kept_everything(self) -> bool:
        """True if the policy was asked to forget and never did."""
        asked = self.rows[0]["memory"]["asked_to_evict"]
        return bool(asked) and not any(row["metrics"].get("evicted") for row in self.rows)

    def scores(self, name: str = "score") -> Task:
        """What every trial scored, or another of its values, as (seeds, trials)."""
        return trial_values(self.rows, name)

    def metric(self, name: str) -> float | None:
        """Mean over seeds of one of the rows' metrics; None where it was not measured."""
        values = [row["metrics"].get(name) for row in self.rows]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def peak(self, name: str) -> float | None:
        """Largest value over seeds of one of the rows' metrics."""
        known = [row["metrics"][name] for row in self.rows if row["metrics"].get(name) is not None]
        return float(max(known)) if known else None


@dataclass(frozen=True)
class TargetSummary:
    """All policies on one target: references first, then NAMM, then the rivals from best to worst."""

    target: str
    task: str
    policies: tuple[PolicySummary, ...]
    contender: PolicySummary | None
    """The NAMM that rivals are compared with: one of `policies`, or the cross-fitted one."""
    matched_to: str | None
    """The NAMM whose mean size the rivals were given."""

    @property
    def described(self) -> Trials:
        """What its trials are."""
        return self.policies[0].described

    @property
    def setting(self) -> str:
        """What every score belongs to: environment or model, versions, and what must stand beside it."""
        row = self.policies[0].rows[0]
        versions = {name: row.get("versions", {}).get(name) for name in self.described.packages}
        told = [row["identity"].get("model", self.task)]
        told += [f"{name} {version}" for name, version in versions.items() if version]
        return ", ".join([*told, *filter(None, [self.described.caveat(row)])])

    @property
    def score_kind(self) -> Score:
        """What its score is, described."""
        return self.policies[0].score_kind

    @property
    def digits(self) -> int:
        """Shown of its scores behind the point."""
        return self.score_kind.digits

    @property
    def best_namm(self) -> PolicySummary | None:
        """The NAMM variant with the highest score, of equal ones the smaller. Chosen on what is shown."""
        return best_namm(self.policies)

    @property
    def reference(self) -> PolicySummary | None:
        """How the model is meant to be used: without a cache where there is such a way, else with the full one."""
        return self.native or self.get("full")

    @property
    def native(self) -> PolicySummary | None:
        """The model used as it is meant to be without any cache, where there is such a thing."""
        return None if self.described.native is None else self.get(self.described.native)

    @property
    def rivals(self) -> list[PolicySummary]:
        """What NAMM is compared with at equal size, from best to worst."""
        return [policy for policy in self.policies if policy.is_rival]

    def get(self, policy: str) -> PolicySummary | None:
        """A policy by its label."""
        return next((summary for summary in self.policies if summary.policy == policy), None)


def role(row: Row) -> str:
    """Why a row exists: "reference", "free" (NAMM, deciding its size), "matched", "given" (`--budget`) or "curve"."""
    memory = row["memory"]
    if memory.get("role"):
        return memory["role"]
    if row["policy"] in of(row).references:
        return "reference"
    if memory.get("matched_to"):
        return "matched"
    return "free" if row["identity"].get("budget") is None else "given"


def best_namm(policies: Sequence[PolicySummary]) -> PolicySummary | None:
    """The NAMM variant with the highest mean score; of equal ones the one that held fewer slots."""
    variants = [summary for summary in policies if summary.is_namm]
    return max(variants, key=lambda s: (s.score.value, -(s.metric("slots_mean") or 0.0)), default=None)


def target_name(row: Row) -> str:
    """The target of a row: a model, and what it is asked or where it acts."""
    return row["target"]


def summarise(rows: Sequence[Row], name: Callable[[Row], str] = target_name) -> list[TargetSummary]:
    """Summaries of finished rows, in the order in which targets first appear; points of curves are left out.

    Args:
        rows: Rows of one experiment, any number of targets, policies and seeds.
        name: What the rows of one summary have in common.
    """
    targets: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if role(row) != "curve":
            targets.setdefault(name(row), {}).setdefault(row["policy"], []).append(row)
    return [_target_summary(target, groups) for target, groups in targets.items()]


def policy_summary(target: str, policy: str, rows: Sequence[Row]) -> PolicySummary:
    """The summary of the rows of one policy on one target, not compared with anything."""
    ordered = tuple(sorted(rows, key=lambda row: row["seed"]))
    played = [trial for row in ordered for trial in trials(row)]
    successes = [known for trial in played if (known := trial.get("success")) is not None]
    success = success_rate(successes) if len(successes) == len(played) else None
    rate = success if of(ordered[0]).score(ordered[0]["score_name"]).rate else None
    scores = trial_values(ordered, "score")
    return PolicySummary(
        target=target,
        policy=policy,
        rows=ordered,
        score=aggregate([scores], BOOTSTRAP_SEED) if rate is None else scaled(rate, 100.0),
        interquartile=interquartile_of_trials(scores, BOOTSTRAP_SEED),
        success=success,
    )


def differences(first: PolicySummary, second: PolicySummary) -> Task | None:
    """First minus second on the trials that both were given, as (seeds, trials); None where they share none."""
    theirs = {row["seed"]: row for row in second.rows}
    found, documents = [], []
    for row in first.rows:
        if row["seed"] in theirs:
            other = {trial_id(row, trial): trial for trial in trials(theirs[row["seed"]])}
            shared = [trial for trial in trials(row) if trial_id(row, trial) in other]
            found += [[trial["score"] - other[trial_id(row, trial)]["score"] for trial in shared]] if shared else []
            documents += [document_of(row, trial) or document_of(row, other[trial_id(row, trial)]) for trial in shared]
    return clustered(rectangle(found), documents) if found else None


def trial_values(rows: Sequence[Row], name: str) -> Task:
    """One value of every trial as (seeds, trials)."""
    values = rectangle([[float(trial[name]) for trial in trials(row)] for row in rows])
    return clustered(values, [document_of(row, trial) for row in rows for trial in trials(row)])


def rectangle(values: Sequence[Sequence[float]]) -> np.ndarray:
    """Values a seed as an array; seeds of unequal length (an experiment made longer) become one stratum."""
    if len({len(several) for several in values}) == 1:
        return np.array(values)
    return np.concatenate([np.array(several) for several in values])[None, :]


def _target_summary(target: str, groups: dict[str, list[Row]]) -> TargetSummary:
    policies = [policy_summary(target, policy, group) for policy, group in groups.items()]
    rows = [row for group in groups.values() for row in group]
    contender = _contender(target, policies, rows)
    policies = _compared(policies, contender)
    contender = next((policy for policy in policies if contender and policy.policy == contender.policy), contender)
    policies.sort(key=lambda s: (not s.is_reference, not s.is_namm, -s.score.value))
    matched = next((row["memory"]["matched_to"] for row in rows if row["memory"].get("matched_to")), None)
    return TargetSummary(target, policies[0].rows[0]["task"], tuple(policies), contender, matched)


def _contender(target: str, policies: Sequence[PolicySummary], rows: Sequence[Row]) -> PolicySummary | None:
    variants = [policy for policy in policies if policy.is_namm]
    named = declared(rows)
    alone = next((policy for policy in variants if policy.policy == named or len(variants) == 1), None)
    if alone or not variants:
        return alone
    fitted = held_out([variant.rows for variant in variants])
    return best_namm(variants) if fitted is None else policy_summary(target, fitted[0]["policy"], fitted)


def _compared(policies: Sequence[PolicySummary], contender: PolicySummary | None) -> list[PolicySummary]:
    """Paired differences to the contender; rivals are corrected for one another, and so are the references."""
    if contender is None:
        return list(policies)
    paired = {}
    for group in ("is_rival", "is_reference"):
        found = {p.policy: differences(contender, p) for p in policies if getattr(p, group)}
        tests = {name: paired_over_tasks([d], BOOTSTRAP_SEED) for name, d in found.items() if d is not None}
        corrected = holm([test.p_value for test in tests.values()])
        paired |= {n: replace(t, adjusted=p) for (n, t), p in zip(tests.items(), corrected, strict=True)}
    return [replace(policy, versus_namm=paired.get(policy.policy)) for policy in policies]


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """The same in other units."""
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
