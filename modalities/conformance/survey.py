"""Which model families fit the default adapter: every causal language model of the installed transformers, tried.

`python -m modalities.conformance.survey > docs/models.md` tries all, in a few minutes; `... gemma2 jamba` some.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import transformers
import tyro
from transformers.utils import logging

from modalities.conformance.case import Case
from modalities.conformance.examine import examine
from modalities.conformance.pictures import FAMILIES, pictures_of
from modalities.conformance.tiny_models import UNBUILT, family_names, tiny_model
from modalities.huggingface.adapter import examined
from namm.terminal import any_terminal

Outcome = Literal["fits", "refused", "differs", "not tried"]


TITLES: dict[Outcome, str] = {
    "fits": "Fit: equal to stock with everything kept, exact when forgetting",
    "refused": "Refused, with the reason that `attach` or the first call gives",
    "differs": "Differ: bugs",
    "not tried": "Not tried",
}
"""Of the table's parts."""

HEAD = """# Model families

Every causal language model family of transformers {version}, as a tiny random model, under the default adapter. Made by
`python -m modalities.conformance.survey > docs/models.md`; a slow test compares it with what is found.
[attaching.md](attaching.md) says what the words mean, and how to examine a model of your own.
"""
"""How the page begins."""


PICTURES = """## With pictures in the prompts

Vision-language families, each row of a batch with a video or picture of its own in front of its text; made by
`python -m modalities.conformance.survey --pictures`. `namm-check` examines these with pictures and others on text
alone.
"""
"""How the part about pictures begins."""


@dataclass(frozen=True)
class Finding:
    """What became of one family."""

    family: str
    outcome: Outcome
    how: str
    """How it is held, or why it is not."""


def look_at(family: str, pictures: bool = False) -> Finding:
    """Builds a tiny model of a family and examines it.

    Args:
        family: A model type.
        pictures: Whether its prompts hold pictures; else it is examined on text.
    """
    if family in UNBUILT:
        return Finding(family, "not tried", UNBUILT[family])
    try:
        model = tiny_model(family)
        shown = pictures_of(model) if pictures else None
        subject = examined(model, family, shown)
        _ = Case.of(subject).stock
    except Exception as error:  # the stock model itself: whatever it raises is the finding
        return Finding(family, "not tried", f"the stock model does not run: {_line(error)}")
    try:
        verdict = examine(subject, shrink=False)
    except Exception as error:
        return Finding(family, "differs", f"raised {_line(error)}")
    if verdict.refused is not None:
        return Finding(family, "refused", verdict.refused)
    failed = [f"{check.name}: {check.detail}" for check in verdict.checks if not check.passed]
    how = verdict.how if shown is None else f"{shown.kind}; {verdict.how}"
    return Finding(family, "differs" if failed else "fits", "; ".join(failed) or how)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def table(findings: list[Finding]) -> str:
    """The findings as a page of Markdown."""
    lines = [HEAD.format(version=transformers.__version__)]
    for outcome, title in TITLES.items():
        some = [finding for finding in findings if finding.outcome == outcome]
        if some:
            lines += [f"## {title} ({len(some)})", "", "| family | how |", "|---|---|"]
            lines += [f"| {finding.family} | {finding.how.replace('|', '/')} |" for finding in some]
            lines.append("")
    return "\n".join(lines)


def pictures_table(findings: list[Finding]) -> str:
    """What became of families with pictures in their prompts, as a part of the page."""
    rows = [f"| {finding.family} | {finding.outcome} | {finding.how.replace('|', '/')} |" for finding in findings]
    return "\n".join([PICTURES, "| family | outcome | how |", "|---|---|---|", *rows, ""])


def read_table(page: str) -> dict[str, Outcome]:
    """The outcome of each family, from a page of :func:`table`."""
    outcomes: dict[str, Outcome] = {}
    titles: dict[str, Outcome] = {title.split(":")[0].split(",")[0]: key for key, title in TITLES.items()}
    now: Outcome | None = None
    for line in page.splitlines():
        if line.startswith("## "):
            now = next((key for title, key in titles.items() if line[3:].startswith(title)), None)
        elif line.startswith("| ") and now is not None and not line.startswith("| family"):
            outcomes[line.split("|")[1].strip()] = now
    return outcomes


@dataclass(frozen=True)
class Arguments:
    """Tries model families."""

    families: tyro.conf.Positional[tuple[str, ...]] = ()
    """Model types; all by default."""

    pictures: bool = False
    """Only families of pictures, with pictures in their prompts."""

    as_json: bool = False
    """Prints findings as JSON lines, as they come."""


def main() -> None:
    """The command; exit status 1 if a family differs."""
    with any_terminal():
        _survey(tyro.cli(Arguments, prog="python -m modalities.conformance.survey"))


def _survey(arguments: Arguments) -> None:
    """Tries the families and says what became of them."""
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shown = [family for family in arguments.families or sorted(FAMILIES) if family in FAMILIES]
    read = [] if arguments.pictures else arguments.families or family_names()
    findings = [_told(look_at(family), arguments) for family in read]
    with_pictures = [_told(look_at(family, pictures=True), arguments) for family in shown]
    if not arguments.as_json:
        print("\n".join([table(findings)] * bool(read) + [pictures_table(with_pictures)] * bool(shown)))
    findings += with_pictures
    sys.exit(any(finding.outcome == "differs" for finding in findings))


def _told(finding: Finding, arguments: Arguments) -> Finding:
    """Says what was found as it comes."""
    if arguments.as_json:
        print(json.dumps(asdict(finding)), flush=True)
    else:
        print(f"{finding.family}: {finding.outcome}", file=sys.stderr, flush=True)
    return finding


if __name__ == "__main__":
    main()
