"""The same prompts answered under every policy, with the tokens that each kept coloured in the text.

A section of the report, and a page of its own for each run in Weights & Biases. The page's script draws tokens as text
nodes, so that nothing in a prompt is ever markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from evaluations.analysis.summary import TargetSummary
from evaluations.language.trace import kept_of
from evaluations.report.sections.base import Report
from evaluations.rows.file import Row
from evaluations.rows.trials import of, trials
from namm.files import write_atomically

PAGE_BYTES = 12_000_000
"""Examples beyond this size are left out of the report; their rows have them."""
SHOWN = 4
"""Policies that are shown at first."""
FIRST_SHOWN = ("full", "h2o", "window", "snapkv", "random")
"""Rivals that are shown at first, where they ran."""


def section(report: Report) -> str:
    """Every example, one at a time, policies side by side."""
    examples, left_out = _examples(report.targets)
    if not examples:
        return ""
    missing = f" {left_out} more examples would not fit on this page; their rows have them." if left_out else ""
    return (
        "<section><h2>What is kept, in the text</h2><p>The same prompt under every policy: its answer, and the context "
        "with the tokens that were still held when the question came. Faded tokens were evicted. With the slider at "
        "its left, a token's colour is the stronger the more (layer, KV head) pairs hold it; further on, it walks "
        "through them one by one."
        f"{escape(missing)}</p><div id='kept'></div><noscript>This part needs JavaScript.</noscript>"
        f"{_scripts(examples)}</section>"
    )


def example_page(rows: Sequence[Row], folder: Path) -> Path | None:
    """A page that shows what a run kept of its example; None where its rows have none."""
    row = next((row for row in rows if row.get("trace")), None)
    if row is None:
        return None
    folder.mkdir(exist_ok=True)
    path = folder / f"kept-{row['key']}.html"
    style = resources.files("evaluations.report").joinpath("report.css").read_text("utf-8")
    example = _example(f"{row['task']}, prompt {row['trace']['id']}", [row])
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>What is kept</title>"
        f"<style>{style}</style></head><body><main><div id='kept'></div>{_scripts([example])}</main></body></html>\n"
    )
    write_atomically(path, page)
    return path


def _scripts(examples: Sequence[Mapping[str, Any]]) -> str:
    files = resources.files("evaluations.language")
    style, script = (files.joinpath(name).read_text("utf-8") for name in ("trace.css", "trace.js"))
    data = json.dumps(examples, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<style>{style}</style><script id='kept-data' type='application/json'>{data}</script><script>{script}</script>"
    )


def _examples(targets: Sequence[TargetSummary]) -> tuple[list[dict[str, Any]], int]:
    found, size, left_out = [], 0, 0
    for target in targets:
        rows = [row for policy in target.policies for row in policy.rows if row.get("trace")]
        if not rows:
            continue
        example = _example(f"{target.target}, prompt {rows[0]['trace']['id']}", rows)
        size += len(json.dumps(example))
        if size > PAGE_BYTES and found:
            left_out += 1
            continue
        found.append(example)
    return found, left_out


def _example(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    trace = rows[0]["trace"]
    known = [row["policy"] for row in rows]
    first = [name for name in known if name.startswith("namm")][:1]
    first = [*(name for name in FIRST_SHOWN[:1] if name in known), *first]
    first += [name for name in (*FIRST_SHOWN, *known) if name in known and name not in first]
    return {
        "name": name,
        "pieces": trace["pieces"],
        "question": trace["question"],
        "expected": trace["expected"],
        "layers": trace["layers"],
        "heads": trace["heads"],
        "shown": first[:SHOWN],
        "policies": [_policy(row) for row in rows],
    }


def _policy(row: Row) -> dict[str, Any]:
    trace = row["trace"]
    trial = next(trial for trial in trials(row) if trial["id"] == trace["id"])
    score = f"{trial['score']:.{of(row).score(row['score_name']).digits}f}"
    return {
        "policy": row["policy"],
        "namm": row["policy"].startswith("namm"),
        "score": f"{row['score_name']} {score}",
        "right": bool(trace["expected"]) and trace["answer"].strip() == trace["expected"].strip(),
        "answer": trace["answer"],
        "kept": base64.b64encode(np.packbits(kept_of(row)).tobytes()).decode(),
    }
