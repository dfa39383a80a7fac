"""Sentences about a target that follow from its intervals and corrected p-values, and from nothing else.

"Ahead" and "behind" are said only of a `PairedDifference.is_clear`: the paired interval excludes zero and the
permutation test, corrected for the number of rivals, is below 5%. Everything that could make a reader trust a number
too much is a warning: variants chosen on what is shown, missed sizes, too few trials, a negative control that does
well.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluations.analysis.aggregates import paired_over_tasks
from evaluations.analysis.estimates import SIGNIFICANCE, PairedDifference, holm
from evaluations.analysis.summary import BOOTSTRAP_SEED, NEGATIVE_CONTROL, PolicySummary, TargetSummary, differences
from evaluations.rows.policy_names import HELD_OUT
from evaluations.rows.results import Row

Note = tuple[str, str]
"""(kind, sentence); kind is "warning" or "note"."""
SIZE_TOLERANCE = 0.1
"""Mean sizes further apart than this are not called equal."""


def notes(target: TargetSummary) -> list[Note]:
    """What a careful reader would say about one target, as (kind, sentence)."""
    found = list(target.described.remarks(target.policies[0].rows[0]))
    found += [
        ("warning", f"{policy.policy} was asked to forget and evicted nothing: read it as full.")
        for policy in target.policies
        if policy.kept_everything
    ]
    found += _spared(target)
    found += _broken_by_length(target)
    if target.contender is None:
        return found
    rivals = [rival for rival in target.rivals if not rival.kept_everything]
    found += _choice(target, target.contender)
    found += _against_references(target, target.contender)
    if rivals:
        found += _ranking(target, target.contender, rivals)
    return found + _negative_control(target) + _sizes(target, target.contender)


def paired(difference: PairedDifference | None) -> str:
    """A difference with its interval and its corrected p-value, for brackets."""
    if difference is None:
        return "nothing in common"
    p_value = difference.p_value if difference.adjusted is None else difference.adjusted
    digits = 1 if abs(difference.difference.value) >= 0.5 else 3
    return f"{difference.difference.text(digits, sign='+')}, p = {p_value:.1g}"


def join(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdicts(name: str, tests: Sequence[tuple[str, PairedDifference | None]]) -> list[Note]:
    """Who is ahead of whom, one sentence for each of: ahead, behind, not told apart.

    Args:
        name: What is compared, the first of every difference.
        tests: The others, with the paired difference to each.
    """
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "level": []}
    for other, test in tests:
        side = "level" if test is None or not test.is_clear else "ahead" if test.difference.value > 0 else "behind"
        sides[side].append(f"{other} ({paired(test)})")
    found = []
    if sides["ahead"]:
        found.append(("note", f"{name} is ahead of {join(sides['ahead'])}."))
    if sides["behind"]:
        found.append(("warning", f"{name} is behind {join(sides['behind'])}."))
    if sides["level"]:
        found.append(("note", f"{name} is not told apart from {join(sides['level'])}."))
    return found


def _spared(target: TargetSummary) -> list[Note]:
    """Trials that never reach an update are read with the full cache, whatever the policy."""
    told = [(policy.metric("evicting"), policy) for policy in target.policies if not policy.is_reference]
    parts = [(share, policy) for share, policy in told if share is not None and not policy.kept_everything]
    share, policy = min(parts, default=(1.0, None), key=lambda part: part[0])
    if share >= 1.0 or policy is None:
        return []
    text = (
        f"Of only {100 * share:.0f}% of the {target.described.plural} had {policy.policy} evicted anything "
        f"{target.described.sized}: the others are like full there, for being shorter than an interval or than its "
        "budget."
    )
    return [("warning" if share < 0.5 else "note", text)]


def _broken_by_length(target: TargetSummary) -> list[Note]:
    native, full = target.native, target.get("full")
    if native is None or full is None or full.score.high >= native.score.low:
        return []
    text = (
        f"The full cache ({full.score.value:.1f}) is worse than the {native.policy} ({native.score.value:.1f}): this "
        "model breaks down beyond the context it was trained on, so any forgetting gains points here. Judge NAMM "
        f"against the {native.policy} and the rivals of equal size, not against full."
    )
    return [("warning", text)]


def _choice(target: TargetSummary, contender: PolicySummary) -> list[Note]:
    best, variants = target.best_namm, [policy for policy in target.policies if policy.is_namm]
    if best is None or len(variants) < 2:
        return []
    if contender.policy == HELD_OUT:
        chosen = list(dict.fromkeys(name for row in contender.rows for name in row["memory"]["chosen"]))
        several = len(contender.rows) > 1
        half = f"half of the {target.described.plural}"
        each, where = ("seed", "on the other seeds") if several else (half, "on the other half")
        text = (
            f"{best.policy} scores best of {len(variants)} NAMM variants on the {target.described.plural} shown "
            f"({best.score.value:.1f}), which flatters it. {HELD_OUT} is what comparisons use: for each {each} the "
            f"variant chosen {where} "
            f"({join(chosen)}), {contender.score.value:.1f}."
        )
        return [("note", text)]
    if contender is best and not any(row["memory"].get("matched_by") == "declared" for row in _all_rows(target)):
        shown = f"{len(variants)} variants on the very {target.described.plural} shown"
        text = f"{best.policy} was chosen of {shown}: its lead is flattered."
        return [("warning", text)]
    return [
        ("note", f"{contender.policy} was declared beforehand; the other NAMM variants are shown, not chosen from.")
    ]


def _against_references(target: TargetSummary, contender: PolicySummary) -> list[Note]:
    references = [policy for policy in target.policies if policy.is_reference and policy.versus_namm is not None]
    return verdicts(contender.policy, [(policy.policy, policy.versus_namm) for policy in references])


def _ranking(target: TargetSummary, contender: PolicySummary, rivals: Sequence[PolicySummary]) -> list[Note]:
    tests, word = [(rival.policy, rival.versus_namm) for rival in rivals], target.described.word
    known = [test for _, test in tests if test is not None]
    if not known:
        return verdicts(contender.policy, tests)
    smallest = max(test.smallest_p_value for test in known) * len(known)
    if smallest >= SIGNIFICANCE:
        text = (
            f"Too few {word}s to tell {contender.policy} apart from its rivals: with {_count(known, word)} and "
            f"{len(known)} rivals the smallest corrected p-value there can be is {min(smallest, 1.0):.2g}. Give more "
            f"{word}s or seeds."
        )
        return [("warning", text)]
    several = f", corrected for {len(known)} rivals (Holm)" if len(known) > 1 else ""
    text = (
        f"In brackets: NAMM minus the other on the same {target.described.shared}, 95% interval, p of a paired "
        f"permutation test{several}. Two are told apart where interval and test agree; not being told apart is no "
        "proof of being equal."
    )
    found = [*verdicts(contender.policy, tests), ("note", text)]
    if len(known) > 1 and not any(test.is_clear for test in known):
        found.append(("warning", "No rival is told apart from NAMM: this task does not rank memory policies."))
    return found


def _count(tests: Sequence[PairedDifference], word: str) -> str:
    pairs = min(test.pairs for test in tests)
    return f"one pair of {word}s" if pairs == 1 else f"{pairs} pairs of {word}s"


def _negative_control(target: TargetSummary) -> list[Note]:
    """Whoever keeps the oldest tokens ought to lose; where it does not, the task says little about memory."""
    control = target.get(NEGATIVE_CONTROL)
    if control is None or control.kept_everything:
        return []
    others = [p for p in target.policies if p.is_rival and p is not control and not p.kept_everything]
    others += [target.contender] if target.contender else []
    found = {other.policy: differences(other, control) for other in others}
    tests = {name: paired_over_tasks([d], BOOTSTRAP_SEED) for name, d in found.items() if d is not None}
    if max((test.smallest_p_value for test in tests.values()), default=1.0) * len(tests) >= SIGNIFICANCE:
        return []
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    worse = [name for name, test in tests.items() if corrected[name] < SIGNIFICANCE and test.difference.low > 0]
    level = [name for name in tests if name not in worse]
    if not level:
        return [
            ("note", f"{NEGATIVE_CONTROL}, the negative control, is clearly worse than all others, as it should be.")
        ]
    text = f"{NEGATIVE_CONTROL}, the negative control, is not clearly worse than {join(level)}: "
    text += (
        "between these, this task does not show that it matters what is kept."
        if worse
        else "this task does not rank memory policies."
    )
    return [("warning", text)]


def _sizes(target: TargetSummary, contender: PolicySummary) -> list[Note]:
    found = []
    matched = target.get(target.matched_to) if target.matched_to else None
    size = matched.metric("slots_mean") if matched else None
    for rival in target.rivals if matched else ():
        asked, held = rival.rows[0]["memory"].get("asked") or size, rival.metric("slots_mean")
        if rival.rows[0]["memory"].get("matched_to") and asked and held and abs(held / asked - 1) > SIZE_TOLERANCE:
            other = f": its {target.described.plural} were of another length than NAMM's"
            why = other if target.described.own_length else ""
            text = f"{rival.policy} held {held:.1f} slots on average where {asked:.1f} were asked for{why}."
            found.append(("warning", text))
    held = contender.metric("slots_mean")
    if matched and size and held and abs(held / size - 1) > SIZE_TOLERANCE:
        text = (
            f"{contender.policy} held {held:.1f} slots on average, the rivals were given the {size:.1f} of "
            f"{matched.policy}: the comparison is not at quite equal size."
        )
        found.append(("warning", text))
    return found


def _all_rows(target: TargetSummary) -> list[Row]:
    return [row for policy in target.policies for row in policy.rows]
