"""What the rows of an experiment say: one summary per target and policy, and honest notes made from the numbers.

The terminal's table, the Markdown file and the HTML report all show these summaries, so they cannot disagree. "Best
NAMM" is the NAMM variant with the highest mean score on a target (of equal ones the smaller): the rivals' budgets are
matched to it, and every paired difference is taken against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluations.comparability import Comparability
from evaluations.estimates import (
    Estimate,
    PairedDifference,
    bootstrap,
    interquartile_mean,
    paired_difference,
    success_rate,
)
from evaluations.harness import Row

REFERENCES = ("native window", "full")
"""Rows shown for orientation: nobody asked them to forget."""

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class PolicySummary:
    """One policy on one target, over all its seeds and episodes. Scores are percentages, larger is better."""

    target: str
    policy: str
    rows: tuple[Row, ...]
    score: Estimate
    interquartile: Estimate
    returns: Estimate
    success: Estimate | None
    versus_namm: PairedDifference | None = None
    """Best NAMM minus this policy on the same reset seeds; None for the best NAMM itself, or without any NAMM."""

    @property
    def score_name(self) -> str:
        """What the score is, such as "normalised score"."""
        return self.rows[0]["score_name"]

    @property
    def is_namm(self) -> bool:
        """True for a NAMM, whatever its statistics."""
        return self.policy.startswith("namm")

    @property
    def is_reference(self) -> bool:
        """True for the rows nobody asked to forget."""
        return self.policy in REFERENCES

    @property
    def budget(self) -> int | None:
        """Slots kept per KV head after an update, None where the policy decides for itself."""
        return self.rows[0]["identity"].get("budget")

    @property
    def episodes(self) -> int:
        """Episodes over all seeds."""
        return sum(len(row["episodes"]) for row in self.rows)

    @property
    def kept_everything(self) -> bool:
        """True if the policy was asked to forget and never did."""
        asked = self.rows[0]["memory"]["asked_to_evict"]
        return bool(asked) and not any(row["metrics"].get("evicted") for row in self.rows)

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

    @property
    def comparability(self) -> Comparability | None:
        """Whether its normalised scores may stand beside D4RL's; None where the question does not arise."""
        found = self.policies[0].rows[0].get("comparability")
        return None if found is None else Comparability(**found)

    @property
    def simulator(self) -> str:
        """What every score belongs to: environment and versions, and whether D4RL's scores compare."""
        row = self.policies[0].rows[0]
        versions = {name: row.get("versions", {}).get(name) for name in ("gymnasium", "mujoco")}
        parts = [self.task, *(f"{name} {version}" for name, version in versions.items() if version)]
        verdict = self.comparability
        return ", ".join(parts if verdict is None or verdict.comparable else [*parts, verdict.verdict])

    @property
    def best_namm(self) -> PolicySummary | None:
        """The NAMM variant with the highest score, of equal ones the smaller."""
        return best_namm(self.policies)

    def get(self, policy: str) -> PolicySummary | None:
        """A policy by its label."""
        return next((summary for summary in self.policies if summary.policy == policy), None)


def best_namm(policies: Sequence[PolicySummary]) -> PolicySummary | None:
    """The NAMM variant with the highest mean score; of equal ones the one that held fewer slots."""
    variants = [summary for summary in policies if summary.is_namm]
    return max(variants, key=lambda s: (s.score.value, -(s.metric("slots_mean") or 0.0)), default=None)


def summarise(rows: Sequence[Row]) -> list[TargetSummary]:
    """Summaries of finished rows, in the order in which targets first appear.

    Args:
        rows: Rows of one experiment, any number of targets, policies and seeds.
    """
    targets: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        targets.setdefault(row["target"], {}).setdefault(row["policy"], []).append(row)
    summaries = []
    for target, groups in targets.items():
        policies = [_policy_summary(target, policy, group) for policy, group in groups.items()]
        anchor = best_namm(policies)
        policies = [_compared(summary, anchor) for summary in policies]
        policies.sort(key=lambda s: (not s.is_reference, not s.is_namm, -s.score.value))
        summaries.append(TargetSummary(target, policies[0].rows[0]["task"], tuple(policies)))
    return summaries


def across_targets(targets: Sequence[TargetSummary]) -> dict[str, tuple[Estimate, Estimate]]:
    """(mean, interquartile mean) of every policy's episode scores over all targets, each target weighing the same.

    Only policies that were run on every target are compared. Targets are strata; those with more episodes are thinned
    to quantiles, so that none outweighs another.
    """
    names = [p.policy for p in targets[0].policies if all(t.get(p.policy) for t in targets)] if targets else []
    found = {}
    for name in names:
        strata = [_scores(target.get(name).rows) for target in targets]
        size = min(len(stratum) for stratum in strata)
        quantiles = (np.arange(size) + 0.5) / size
        equal = [np.quantile(stratum, quantiles, method="inverted_cdf") for stratum in strata]
        found[name] = (
            bootstrap(equal, BOOTSTRAP_SEED),
            bootstrap(equal, BOOTSTRAP_SEED, statistic=interquartile_mean),
        )
    return found


def notes(target: TargetSummary) -> list[tuple[str, str]]:
    """What a careful reader would say about one target, as (kind, sentence); kind is "warning" or "note"."""
    found: list[tuple[str, str]] = []
    best, native, full = target.best_namm, target.get("native window"), target.get("full")
    rivals = [p for p in target.policies if not p.is_namm and not p.is_reference]
    verdict = target.comparability
    if verdict is not None:
        kind = "note" if verdict.comparable else "warning"
        found.append((kind, f"Scores x100 on {target.task} are {verdict.sentence}."))
        cut = target.policies[0].rows[0]["identity"].get("max_steps")
        if cut is not None:
            found.append(("warning", f"Episodes were cut after {cut} steps: scores x100 are made for whole ones."))
    for policy in target.policies:
        if policy.kept_everything:
            found.append(("warning", f"{policy.policy} was asked to forget and evicted nothing: read it as full."))
    if native and full and full.score.high < native.score.low:
        found.append(
            (
                "warning",
                f"The full cache ({full.score.value:.1f}) is worse than the native window "
                f"({native.score.value:.1f}): this "
                "model breaks down beyond the context it was trained on, so any forgetting gains points here. Judge "
                "NAMM "
                "against the native window and the rivals of equal size, not against full.",
            )
        )
    if best is None:
        return found
    if rivals:
        found.extend(_ranking(best, rivals))
    source = target.get("namm (source)")
    if source and source is not best:
        verdict = "overlap" if source.score.overlaps(best.score) else "do not overlap"
        found.append(
            (
                "note",
                f"{best.policy} is the best of the NAMM variants, chosen on the episodes shown; with the source's own "
                f"statistics it reaches {source.score.value:.1f} (intervals {verdict}).",
            )
        )
    asked = best.metric("slots_mean")
    for rival in rivals:
        held = rival.metric("slots_mean")
        if rival.rows[0]["memory"].get("matched_to") and asked and held and abs(held / asked - 1) > 0.1:
            found.append(
                (
                    "warning",
                    f"{rival.policy} held {held:.1f} slots on average where {asked:.1f} were asked for: its episodes "
                    "were "
                    "of another length than NAMM's.",
                )
            )
    return found


def _ranking(best: PolicySummary, rivals: Sequence[PolicySummary]) -> list[tuple[str, str]]:
    """Apart where intervals do not overlap; else the paired comparison, which sees more, decides what is said."""
    apart = [p for p in rivals if not p.score.overlaps(best.score)]
    ahead = [p.policy for p in apart if p.score.value < best.score.value]
    behind = [p.policy for p in apart if p.score.value > best.score.value]
    told = [p for p in rivals if p not in apart and p.versus_namm is not None and p.versus_namm.p_value < 0.05]
    level = [p for p in rivals if p not in apart and p not in told]
    found = []
    if ahead:
        found.append(("note", f"{best.policy} is ahead of {_join(ahead)}: the 95% intervals do not overlap."))
    if behind:
        found.append(("warning", f"{best.policy} is behind {_join(behind)}: the 95% intervals do not overlap."))
    for verb, sign in (("ahead of", 1), ("behind", -1)):
        chosen = [f"{p.policy} ({_paired(p.versus_namm)})" for p in told if sign * p.versus_namm.difference.value > 0]
        if chosen:
            text = f"{best.policy} is {verb} {_join(chosen)} episode by episode, though the 95% intervals overlap."
            found.append(("note" if sign > 0 else "warning", text))
    if level:
        details = [f"{p.policy} ({_paired(p.versus_namm)})" for p in level]
        found.append(("note", f"{best.policy} is not told apart from {_join(details)}."))
    if found:
        found.append(("note", "In brackets: NAMM minus rival on the same reset seeds, 95% interval, permutation test."))
    if len(level) == len(rivals) and len(rivals) > 1:
        found.append(("warning", "No rival is told apart from NAMM: this task does not rank memory policies."))
    return found if told or level else found[:-1]


def _paired(difference: PairedDifference | None) -> str:
    if difference is None:
        return "no shared episodes"
    d = difference.difference
    return f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}], p = {difference.p_value:.1g}"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _policy_summary(target: str, policy: str, rows: Sequence[Row]) -> PolicySummary:
    ordered = tuple(sorted(rows, key=lambda row: row["seed"]))
    scores = [[episode["score"] for episode in row["episodes"]] for row in ordered]
    returns = [[episode["return"] for episode in row["episodes"]] for row in ordered]
    successes = [episode["success"] for row in ordered for episode in row["episodes"]]
    success = None if None in successes else success_rate(successes)
    is_rate = success is not None and ordered[0]["score_name"] == "success rate"
    return PolicySummary(
        target=target,
        policy=policy,
        rows=ordered,
        score=_scaled(success, 100.0) if is_rate else bootstrap(scores, BOOTSTRAP_SEED),
        interquartile=bootstrap(scores, BOOTSTRAP_SEED, statistic=interquartile_mean),
        returns=bootstrap(returns, BOOTSTRAP_SEED),
        success=success,
    )


def _compared(summary: PolicySummary, anchor: PolicySummary | None) -> PolicySummary:
    if anchor is None or summary is anchor:
        return summary
    ours, theirs = _by_reset_seed(anchor.rows), _by_reset_seed(summary.rows)
    if not set(ours) & set(theirs):
        return summary
    fields = {name: getattr(summary, name) for name in summary.__dataclass_fields__}
    return PolicySummary(**{**fields, "versus_namm": paired_difference(ours, theirs, BOOTSTRAP_SEED)})


def _by_reset_seed(rows: Sequence[Row]) -> Mapping[int, float]:
    return {episode["reset_seed"]: episode["score"] for row in rows for episode in row["episodes"]}


def _scores(rows: Sequence[Row]) -> np.ndarray:
    return np.array([episode["score"] for row in rows for episode in row["episodes"]])


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)
