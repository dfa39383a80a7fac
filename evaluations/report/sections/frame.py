"""The first and the last section: what the experiment was, and how the page was made."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from evaluations.report.sections.base import Report, table


def header(report: Report, lead: str, facts: Iterable[tuple[str, object]]) -> str:
    """Title, what is shown, how much of it, and whether it is finished.

    Args:
        report: What the page is made of.
        lead: One or two plain sentences.
        facts: What is counted, and how many.
    """
    page = report.page
    tiles = "".join(f"<div class='tile'><b>{escape(str(v))}</b><span>{escape(k)}</span></div>" for k, v in facts)
    unfinished = (
        f"<p class='note warning'>{page.unfinished} cells of this experiment are not finished; run the same command "
        "again.</p>"
        if page.unfinished
        else ""
    )
    return (
        f"<header><h1>{escape(page.title)}</h1><p class='lead'>{lead}</p><div class='tiles'>{tiles}</div></header>"
        f"{unfinished}"
    )


def making(report: Report) -> str:
    """Command, versions, checksums, settings, and how to read the tables."""
    versions: dict[str, set[str]] = {}
    for row in report.rows:
        for name, value in row["versions"].items():
            versions.setdefault(name, set()).add(value)
    checksums = {
        "namm" if name == "namm_sha256" else f"{name.removesuffix('_sha256')} ({row['target']})": str(value)
        for row in report.rows
        for name, value in row["identity"].items()
        if name.endswith("_sha256") and value
    }
    known = [_line(name, escape(", ".join(sorted(values)))) for name, values in versions.items()]
    sums = [_line(name, f"<code>{escape(value[:16])}…</code>") for name, value in checksums.items()]
    settings = [_line(str(name), escape(str(value))) for name, value in report.page.config.items()]
    command = (
        f"<p>Made by <code>{escape(report.page.command)}</code>; the same command continues or shows it again.</p>"
        if report.page.command
        else ""
    )
    reading = "".join(f"<li class='note'>{text}</li>" for text in report.page.reading)
    return (
        f"<section><h2>How this was made</h2>{command}<div class='pair'>{table((), known, 'versions')}"
        f"{table((), sums, 'checkpoints (SHA-256)')}</div>"
        f"<details><summary>Settings</summary>{table((), settings)}</details>"
        f"<ul class='notes'>{reading}</ul></section>"
    )


def _line(name: str, value: str) -> str:
    return f"<tr><th>{escape(name)}</th><td>{value}</td></tr>"
