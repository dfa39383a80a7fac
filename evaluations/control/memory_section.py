"""What is remembered of one target's episodes: kinds, ages, layers and heads, and whether cues survive."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.analysis.survival import associate, held_at_need, in_any_head
from evaluations.control import memory_figures
from evaluations.report.sections.base import Report, head, interval, listed, picture, row_class, table


def retention(report: Report, target: TargetSummary) -> str:
    """What is kept by kind, age, layer and head, and how that changes as an episode goes on."""
    del report
    chosen = representatives(target)
    mapped = [row for p in chosen for row in p.rows if row.get("trace")]
    told = [p for p in chosen if any((row.get("retention") or {}).get("heads") for row in p.rows)]
    pictures = [
        (
            "kinds",
            memory_figures.kinds(target),
            "Share of the tokens seen so far that was held, averaged over the episode. A Decision Transformer reads "
            "three tokens a step: return-to-go R, state s, action a.",
        ),
        (
            "survival",
            memory_figures.survival(mapped),
            "One episode: a column is a token, time runs down, bright is held by all layers and heads. A policy that "
            "remembers shows vertical streaks; a window shows only the diagonal.",
        ),
    ]
    if told:
        pictures[1:1] = [
            (
                "kindstime",
                memory_figures.kinds_over_time(told),
                "The same as the episode goes on: what falls together is kept without regard to its kind.",
            ),
            (
                "agestime",
                memory_figures.ages_over_time(told),
                "How old the held tokens are as the episode goes on (mean over layers, heads and episodes).",
            ),
            (
                "heads",
                memory_figures.heads_by_age(told),
                "How old the held tokens are, by layer and KV head (mean over time and episodes).",
            ),
        ]
    drawn = "".join(picture(figure, f"{target.target}{name}", caption) for name, figure, caption in pictures)
    return f"<h3>What is kept</h3>{drawn}"


def cues(report: Report, target: TargetSummary) -> str:
    """Whether what was shown once is still held when it is needed, and whether that decides success."""
    del report
    followed = [p for p in target.policies if in_any_head(p.rows)]
    if not followed:
        return ""
    chosen = [p for p in representatives(target) if p in followed]
    curves = picture(
        memory_figures.cue_survival(target),
        f"{target.target}cues",
        "Kaplan-Meier estimate of the share of cues whose state token is still held by at least one layer and head; "
        "cues that are needed before they are lost leave the observation. The band is the best NAMM's 95% interval "
        "(Rothman-Wilson).",
    )
    heads = picture(
        memory_figures.cue_heads(chosen), f"{target.target}cueheads", "The same for every layer and KV head on its own."
    )
    lead = (
        "<p>The environment shows something once and asks for it later. A cue is held while its state token is in the "
        "cache of at least one layer and head. That is neither necessary nor sufficient: deeper layers may have copied "
        "it into the keys and values of later tokens, and a held token need not be looked at.</p>"
    )
    return f"<h3>Does the cue survive?</h3>{lead}{curves}{heads}{_table(followed)}{listed(_notes(target, followed))}"


def representatives(target: TargetSummary) -> list[PolicySummary]:
    """The best NAMM, the window, and the best of the other rivals."""
    others = sorted(target.rivals, key=lambda p: p.policy != "window")[:2]
    return [p for p in (target.best_namm, *others) if p is not None]


def _table(policies: Sequence[PolicySummary]) -> str:
    heads = [
        head("policy"),
        head("held when needed %", "cues whose state token at least one (layer, head) held; Wilson interval"),
        head("of all heads %", "(cue, layer, head) that held it"),
        head("score if held", "episodes that held every cue when it was needed"),
        head("score if lost", "episodes that had lost one"),
        head("episodes held / lost"),
        head("rho", "Spearman's correlation of the share of cues held with the score, over episodes"),
        head("p", "Fisher's exact test for successes, Spearman's test otherwise"),
    ]
    lines = []
    for policy in policies:
        found, held = associate(policy.rows), held_at_need(policy.rows)
        assert found is not None
        assert held is not None
        share = Estimate(100 * held.value, 100 * held.low, 100 * held.high)
        of_heads = policy.metric("cue_heads")
        cells = [
            interval(share),
            "–" if of_heads is None else f"{100 * of_heads:.0f}",
            "–" if found.held is None else interval(found.held),
            "–" if found.lost is None else interval(found.lost),
            f"{found.held_trials} / {found.lost_trials}",
            "–" if found.rho is None else f"{found.rho:+.2f}".replace("-", "−"),
            "–" if found.p_value is None else "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
        ]
        shown = "".join(f"<td>{cell.replace('<0', '&lt;0')}</td>" for cell in cells)
        lines.append(f"<tr{row_class(policy)}><th scope='row'>{escape(policy.policy)}</th>{shown}</tr>")
    return table(heads, lines, "cues and scores")


def _notes(target: TargetSummary, followed: Sequence[PolicySummary]) -> list[tuple[str, str]]:
    """What follows from the intervals, and no more."""
    forgetful = [p for p in followed if not p.is_reference]
    pooled = associate([row for p in forgetful for row in p.rows])
    said = []
    if pooled and pooled.held and pooled.lost:
        apart = "do not overlap" if not pooled.held.overlaps(pooled.lost) else "overlap"
        said.append(
            (
                "note",
                f"Over all policies that forget, episodes that held their cue scored {pooled.held.text(0)}, those that "
                f"had lost it {pooled.lost.text(0)}: the intervals {apart}. This mixes policies that differ in more "
                "than the cue, and the same episodes played under several of them.",
            )
        )
    reference = target.get("full")
    if pooled and pooled.lost and reference is not None:
        full = reference.score
        if pooled.lost.overlaps(full):
            said.append(
                (
                    "warning",
                    f"Episodes without the cue's token score no less than the full cache ({full.text(0)}), as far as "
                    "these intervals tell: the information survives elsewhere, or is not needed.",
                )
            )
    return said
