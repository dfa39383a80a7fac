"""The first and the last section: what the experiment was, and how the page was made."""

from __future__ import annotations

from html import escape

from evaluations.report.sections.base import Report, table

READING = (
    "<b>native window</b> re-encodes the newest steps the model was trained with at every step: it is how the model is "
    "meant to be used, and holds no cache. <b>full</b> keeps every token in the cache. Neither was asked to forget.",
    "Slots count tokens per KV head; bytes are those really allocated for keys and values, per episode. The state a "
    "policy keeps about each token (a NAMM's spectra, H2O's sums) is its own column.",
    "Budgeted policies get the smallest budget whose mean size over NAMM's own episode lengths is not below NAMM's, so "
    "they never hold less on average unless their episodes run shorter.",
    "An interval of no width means that all scores were equal, not that the value is known; [–] means that one score "
    "tells no interval. docs/statistics.md defines every number: units, strata, tests, corrections, and what is chosen "
    "on what.",
    "Intervals are over episodes of one trained checkpoint. They do not cover training the checkpoint, or evolving the "
    "NAMM, again.",
    "Feature statistics: <b>source</b> are frozen from the text the NAMM was evolved on, <b>target</b> are "
    "re-estimated on the target without labels or rewards, <b>sequence</b> come from each sequence alone.",
)


def opening(report: Report) -> str:
    """Title, what is shown, how much of it, and whether it is finished."""
    rows, page = report.rows, report.page
    interval = ", ".join(sorted({str(row["identity"].get("interval")) for row in rows} - {"None"}))
    lead = (
        "A Neural Attention Memory Model evolved on text, attached without any change to Decision Transformers: what "
        "it keeps in their KV cache, what that costs, and how every rival does with the same memory."
    )
    facts = (
        ("targets", len(report.targets)),
        ("policies", len({row["policy"] for row in rows})),
        ("seeds", len({row["seed"] for row in rows})),
        ("episodes", sum(len(row["episodes"]) for row in rows)),
        ("update interval", f"{interval or '–'} tokens"),
    )
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
        f"{name.removesuffix('_sha256')} ({row['target']})" if name.startswith("checkpoint") else "namm": str(value)
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
    reading = "".join(f"<li class='note'>{text}</li>" for text in report.page.reading or READING)
    return (
        f"<section><h2>How this was made</h2>{command}<div class='pair'>{table((), known, 'versions')}"
        f"{table((), sums, 'checkpoints (SHA-256)')}</div>"
        f"<details><summary>Settings</summary>{table((), settings)}</details>"
        f"<ul class='notes'>{reading}</ul></section>"
    )


def _line(name: str, value: str) -> str:
    return f"<tr><th>{escape(name)}</th><td>{value}</td></tr>"
