"""Does a model keep what a Memory promises? One contract for every adapter, with a verdict to act on.

The clauses are in `clauses.py` and `holding.py`; here a model is made their subject, and what became of them a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from modalities.base import Adapter, adapter_of
from modalities.conformance import clauses, holding
from modalities.conformance.case import Case, Check, Clause, evicting, keeping
from modalities.conformance.counterexample import tried, with_counterexample
from modalities.conformance.subject import Subject, cast, types_of
from namm.errors import AttachError, ConfigError, NammError, UnknownNameError, did_you_mean
from namm.memory import Memory

__all__ = [
    "AS_BEFORE",
    "CLAUSES",
    "Check",
    "Subject",
    "Verdict",
    "check_runs",
    "examine",
    "lines",
    "subject_of",
    "verdict_on",
]

AS_BEFORE = Clause(
    "the model is as before",
    "hooks, attributes or replaced parts that outlive the block",
    lambda case: _left(case),
    shrinks=False,
    compares=False,
)
CLAUSES = (
    clauses.KEEP_ALL, clauses.SEEN, holding.HEADS, holding.TYPES, clauses.GENERATION, clauses.PIECES, clauses.POSITIONS,
    clauses.ANEW, clauses.FORGETTING, clauses.BATCH, holding.ROWS, holding.BYTES, AS_BEFORE,
)  # fmt: skip
"""The contract, in the order in which it is examined."""
OTHER_DRAWS = (2, 3)
"""Seeds of further prompts."""
NAMES = tuple(clause.name for clause in CLAUSES)


@dataclass(frozen=True)
class Verdict:
    """What became of all clauses."""

    subject: str
    checks: list[Check] = field(default_factory=list)
    refused: str | None = None
    """Why the model cannot be attached; then there are no checks."""
    report: str = ""
    """What the memory of the evicting run printed."""
    how: str = ""
    """How its layers are held, in words."""

    @property
    def conforms(self) -> bool:
        """Whether every clause holds."""
        return self.refused is None and bool(self.checks) and not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of clauses that do not."""
        return [check.name for check in self.checks if check.outcome == "fails"]

    def __str__(self) -> str:
        return "\n".join([self.summary, *map(lines, self.checks)])

    @property
    def summary(self) -> str:
        """What all clauses come to, or why there are none."""
        if self.refused is not None:
            return f"{self.subject}: REFUSED, and nothing was computed wrongly.\n  {self.refused}"
        if self.conforms:
            return f"{self.subject}: CONFORMS"
        return f"{self.subject}: DOES NOT CONFORM ({'; '.join(self.failed)}): do not use its numbers"

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values: `conforms`, `refused`, and of every clause its outcome."""
        guards = {clause.name: clause.guards for clause in CLAUSES}
        told = [{"guards": guards[check.name], **asdict(check)} for check in self.checks]
        return {
            "model": self.subject, "conforms": self.conforms, "refused": self.refused, "clauses": told,
            "held": self.how, "report": self.report,
        }  # fmt: skip


def lines(check: Check) -> str:
    """A check as it is printed."""
    word = {"holds": "ok  ", "fails": "FAIL", "does not apply": "  - "}[check.outcome]
    away = "does not apply: " if check.outcome == "does not apply" else ""
    note = f"; {check.note}" if check.note and check.note != check.detail else ""
    example = "" if check.counterexample is None else f"\n        smallest found: {check.counterexample}"
    return f"  {word}  {check.name}: {away}{check.detail}{note}{example}"


def subject_of(model: nn.Module, name: str | None = None, adapter: type[Adapter] | None = None) -> Subject:
    """A model as its adapter shows it for examination.

    Args:
        model: The model.
        name: In messages.
        adapter: The adapter to ask; None asks those that are registered.

    Raises:
        AttachError: No adapter takes it, or the one that is named does not.
    """
    if adapter is None:
        return adapter_of(model).subject(model, name)
    asked = adapter()
    if not asked.takes(model):
        raise AttachError(f"Expected a model that {asked.name} takes, found {type(model).__name__}; mend its takes().")
    return asked.subject(model, name)


def verdict_on(
    subject: Subject, only: Sequence[str] = (), watch: Callable[[Check], object] = lambda check: None
) -> Verdict:
    """What `namm-check` says of a subject: refused, or examined after the stock model has shown that it runs.

    Args:
        subject: What is examined.
        only: Names of clauses; none stands for all.
        watch: Is given each check as it comes.

    Raises:
        ConfigError: The stock model does not run, or not twice the same.
        UnknownNameError: There is no such clause.
    """
    try:
        with subject.attach(keeping()):
            pass
    except AttachError as error:
        return Verdict(subject.name, refused=str(error))
    check_runs(subject)
    return examine(subject, only, watch=watch)


def check_runs(subject: Subject) -> None:
    """The stock model runs on the prompts that it will be examined on, and gives the same twice.

    Raises:
        ConfigError: It does not.
    """
    case = Case.of(subject)
    try:
        outputs = [subject.run(case.ids, case.mask, None)[0] for _ in range(2)]
    except NammError:
        raise
    except Exception as error:  # of a model that is not ours: whatever it raises
        told = " ".join(str(error).split())
        raise ConfigError(f"{subject.name}: the stock model does not run. {type(error).__name__}: {told}") from error
    if not torch.equal(*outputs):
        raise ConfigError(
            f"{subject.name}: expected a stock model that gives the same twice, found that it does not (dropout, a "
            "state of its own, draws); put it into evaluation mode, and have it draw from a seed."
        )
    if not bool(outputs[0].isfinite().all()):
        raise ConfigError(
            f"{subject.name}: expected finite outputs of the stock model, found others; mend its weights."
        )


def examine(
    subject: Subject,
    only: Sequence[str] = (),
    shrink: bool = True,
    watch: Callable[[Check], object] = lambda check: None,
) -> Verdict:
    """Runs every clause of the contract, or those named.

    Args:
        subject: What is examined.
        only: Names of clauses; none stands for all.
        shrink: Whether smaller prompts are looked for where a clause fails.
        watch: Is given each check as it comes.

    Raises:
        UnknownNameError: There is no such clause.
        Nothing that the model raises under a memory: an AttachError of the first call is a refusal, anything later
        is a failed clause. What the stock model raises by itself is passed on.
    """
    for name in only:
        if name not in NAMES:
            raise UnknownNameError(f"There is no clause {name!r}. {did_you_mean(name, NAMES)}")
    case = Case.of(subject)
    _, _ = case.stock, case.before  # what they raise is not the memory's
    try:
        _ = case.kept
    except AttachError as error:
        return Verdict(subject.name, refused=str(error))
    except Exception:  # of the memory's way: a clause that fails
        pass
    checks = []
    for clause in CLAUSES:
        if not only or clause.name in only:
            check = tried(clause, case)
            if check.outcome == "fails" and clause.compares and "nan" not in check.detail:
                check = _by_rounding(clause, subject) or check
            broken = check.outcome == "fails" and shrink
            checks.append(with_counterexample(clause, case, check) if broken else check)
            watch(checks[-1])
    return Verdict(subject.name, checks, **_told(case, checks))


def _by_rounding(clause: Clause, subject: Subject) -> Check | None:
    """A check that holds, where a failed one came of rounding that tips a choice of the model's; None where it did not.

    In float64 such choices are the same; where a model does not run in it, they are on other prompts.
    """
    if subject.model is None or types_of(subject.model) != {torch.float32}:
        return None
    tipped = "rounding tips a choice of the model's here, as between experts;"
    try:
        with cast(subject.model, torch.float64):
            check = clause.check(Case.of(subject))
        note = f"{tipped} in float64 it does not"
    except Exception:  # a model that computes some of it in float32
        others = [tried(clause, Case.of(subject, seed)) for seed in OTHER_DRAWS]
        check, note = max(others, key=lambda other: other.outcome == "fails"), f"{tipped} on other prompts it does not"
    return replace(check, note=note) if check.outcome == "holds" else None


def _left(case: Case) -> Check:
    """Outputs and parts are the same before, after a block, and after a block that was left by an error."""
    subject, name = case.subject, AS_BEFORE.name
    for raises in (False, True):
        try:
            with subject.attach(evicting()):
                subject.run(case.ids, case.mask, None)
                if raises:
                    raise _LeftEarlyError
        except _LeftEarlyError:
            pass
        again, _ = subject.run(case.ids, case.mask, None)
        after = " a block that an error ended" if raises else " a block"
        if not torch.equal(case.stock, again):
            return Check(name, "fails", f"its outputs are others after{after}")
        if subject.fingerprint() != case.before:
            return Check(name, "fails", f"its hooks, parts, attributes or configuration are others after{after}")
    return Check(name, "holds", "outputs, configuration, hooks and attributes compared")


class _LeftEarlyError(Exception):
    """Ends a block."""


def _told(case: Case, checks: Sequence[Check]) -> dict[str, str]:
    """What a memory that forgets held, and how; nothing where that is what fails."""
    notes = dict.fromkeys(check.note for check in checks if check.note)
    try:
        with case.subject.attach(evicting()) as memory:
            case.subject.run(case.ids, case.mask, None)
            return {"report": str(memory.report()), "how": "; ".join([_how(memory), *notes])}
    except Exception:
        if all(check.passed for check in checks):
            raise
        return {"report": "", "how": "; ".join(notes)}


def _how(memory: Memory) -> str:
    """Which layers the policy governs, and what is special about them."""
    rules = [layer.rule for layer in memory.layers.values()]
    bounded = sorted({str(rule.local).split(" of ")[0] for rule in rules if rule.local is not None})
    count = sum(rule.local is not None for rule in rules)
    widths = {(layer.cache.head_dim, layer.cache.value_dim) for layer in memory.layers.values()}
    facts = [f"{count} of {len(rules)} layers: {' and '.join(bounded)}"] if bounded else []
    facts += ["capped logits"] if any(rule.softcap is not None for rule in rules) else []
    facts += ["learned sinks"] if any(rule.sinks is not None for rule in rules) else []
    facts += [f"values {v} wide, keys {k}" for k, v in sorted(widths) if k != v]
    facts += ["recurrent layers left to transformers"] if memory.report().beside_bytes else []
    return "; ".join(facts) or "all layers alike"
