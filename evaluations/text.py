"""Compares eviction policies on recall in long text: `python evaluations/text.py` (also `namm-text`).

Every policy reads the same test prompts; rivals get the mean number of slots that the NAMM held when the question
came (rounded up, so that none gets less), the same in every head. `POLICY@heads` gives a rival, in each layer and
head, as many as the NAMM held just there: what is left of the NAMM's lead is its choice of tokens, not of heads.
Rows are appended as they finish, and the same command continues.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import checkpoints
from evaluations.commands import exit_code
from evaluations.estimates import Estimate, bootstrap
from evaluations.evolve import load_source
from evaluations.harness import Cell, Results, Row, run_cells
from evaluations.provenance import versions
from evaluations.tasks.recall import TASKS, get_task, test_seed
from modalities.text import recall
from namm import NAMM
from namm.errors import ConfigError, UnknownNameError, did_you_mean
from namm.policies import POLICIES, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHIPPED = Path(checkpoints.__file__).parent
NAMM_LABELS = {"namm:source": "source", "namm:sequence": "sequence"}
ALLOCATED = "@heads"
"""Ending of a rival that gets the NAMM's own allocation over layers and heads."""

BATCH = 32
"""Prompts read side by side."""


@dataclass(frozen=True)
class TextConfig:
    """One comparison on text."""

    model: str = str(SHIPPED / "text" / "recall-llama")
    """A folder or Hub id of a causal language model with the recall vocabulary."""

    namm: Path = SHIPPED / "namm" / "text-v1"
    """Folder of the NAMM."""

    policy: tuple[str, ...] = (
        "full", "window", "random", "l2_norm", "h2o", "h2o_age", "window@heads", "random@heads", "namm:source",
    )  # fmt: skip
    """Policies to compare; a NAMM names its feature statistics."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Recall tasks."""

    context_tokens: tuple[int, ...] = (384,)
    """Context lengths."""

    intervals: tuple[int, ...] = (64,)
    """Tokens between two updates."""

    prompts: int = 64
    """Test prompts a task, context length and seed."""

    seeds: tuple[int, ...] = (0,)
    """Indices of test draws; evolution and validation never see them."""

    budget_fraction: float | None = None
    """Most slots a head may keep under a NAMM, as a fraction of the context; None leaves it to the threshold."""

    match: str = "namm:source"
    """The NAMM whose mean size the rivals get."""

    out: Path = Path("results/text")
    """Folder of the comparison."""

    threads: int = 1
    """Torch threads. Batches of a small model gain nothing from more, and lose much where others use the cores."""


def run(config: TextConfig, console: Console | None = None) -> list[Row]:
    """Runs what is not finished yet and returns all rows.

    Raises:
        NammError: A setting or a file is wrong.
    """
    _check(config)
    torch.set_num_threads(config.threads)
    results = Results(config.out)
    results.write_config({**asdict(config), "namm": str(config.namm), "out": str(config.out)})
    model = load_source(config.model, torch.float32)
    namm = NAMM.from_pretrained(config.namm)
    rows: list[Row] = []
    for task in config.tasks:
        for tokens in config.context_tokens:
            for interval in config.intervals:
                rows += _condition(config, results, model, namm, task, tokens, interval, console)
    return rows


def _condition(
    config: TextConfig, results: Results, model: PreTrainedModel, namm: NAMM, task: str, tokens: int, interval: int,
    console: Console | None,
) -> list[Row]:  # fmt: skip
    """All policies on one task, length and interval; the NAMM first, for its size."""
    ordered = sorted(config.policy, key=lambda name: (name != config.match, config.policy.index(name)))
    rows: list[Row] = []
    budget: int | None = None
    heads: tuple[tuple[int, ...], ...] | None = None
    for name in ordered:
        cells = [
            Cell(
                Path(config.model).name,
                task,
                name,
                seed,
                _identity(config, namm, name, tokens, interval, heads if name.endswith(ALLOCATED) else budget),
            )
            for seed in config.seeds
        ]

        def play(
            unfinished: Sequence[Cell], name: str = name, budget: int | None = budget, heads: Any = heads
        ) -> Iterator[Mapping[str, Any]]:
            for cell in unfinished:
                size = {"head_budgets": heads} if name.endswith(ALLOCATED) else {"budget": budget}
                if name in NAMM_LABELS and config.budget_fraction is not None:
                    size = {"budget": max(1, round(config.budget_fraction * tokens))}
                elif name in NAMM_LABELS:
                    size = {}
                yield _play(model, namm, cell, name, task, tokens, interval, size, config.prompts)

        finished = run_cells(cells, results, play)
        rows += finished
        slots = sum(row["metrics"]["slots"] for row in finished) / len(finished)
        if name == config.match:
            # the tail that no policy has judged yet is the same for all
            budget = max(4, math.ceil(slots - tokens % interval))
            own = np.mean([row["metrics"]["head_slots"] for row in finished], axis=0) - tokens % interval
            heads = tuple(tuple(max(1, math.ceil(held)) for held in layer) for layer in own.tolist())
        if console is not None:
            score = sum(row["score"] for row in finished) / len(finished)
            console.print(
                f"{task} {tokens} tokens, interval {interval}: {name} {100 * score:.1f}%, {slots:.1f} slots",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
    return rows


def _identity(config: TextConfig, namm: NAMM, name: str, tokens: int, interval: int, budget: Any) -> dict[str, Any]:
    """Everything that decides a row."""
    if name in NAMM_LABELS:
        own: dict[str, Any] = {"namm_sha256": namm.sha256(), "budget_fraction": config.budget_fraction}
    else:
        own = {"budget": None if name == "full" else budget}
    found = versions(("torch", "transformers"))
    return {
        "modality": "text", "model": config.model, "context_tokens": tokens, "interval": interval,
        "prompts": config.prompts, **own, **{name: found[name] for name in ("torch", "transformers", "namm_suite")},
    }  # fmt: skip


def _play(
    model: PreTrainedModel, namm: NAMM, cell: Cell, name: str, task: str, tokens: int, interval: int,
    size: Mapping[str, Any], prompts: int,
) -> Mapping[str, Any]:  # fmt: skip
    """One row: accuracy of every prompt, and what was held when it was asked."""
    if name in NAMM_LABELS:
        policy = make_policy("namm", namm=namm, statistics=NAMM_LABELS[name], interval=interval, **size)
    elif name == "full":
        policy = make_policy("full")
    else:
        seed = cell.seed if name.startswith("random") else None
        policy = make_policy(name.removesuffix(ALLOCATED), interval=interval, seed=seed, **size)
    drawn = get_task(task).sample(prompts, tokens, test_seed(cell.seed))
    accuracy, slots, head_slots, cache_bytes = [], [], [], 0
    for start in range(0, prompts, BATCH):
        rows = slice(start, start + BATCH)
        result = recall(model, policy, drawn.context[rows], drawn.question[rows], drawn.target[rows])
        accuracy += result.accuracy.tolist()
        slots += result.slots.tolist()
        cache_bytes += result.cache_bytes
        head_slots.append(result.head_slots)
    mean_slots = sum(slots) / len(slots)
    return {
        "score": sum(accuracy) / len(accuracy),
        "score_name": "recall accuracy",
        "metrics": {
            "slots": mean_slots,
            "head_slots": np.mean(head_slots, axis=0).tolist(),
            "kept_fraction": mean_slots / tokens,
            "cache_bytes": cache_bytes,
        },
        "prompts": accuracy,
        "settings": policy.describe(),
        "versions": versions(("torch", "transformers")),
    }


def summarise(rows: Sequence[Row]) -> Iterator[tuple[str, str, int, int, Estimate, float, float]]:
    """Policy, task ("all" for the mean), context tokens, interval, score, kept fraction, score relative to full.

    Intervals are 95% bootstrap intervals over prompts, stratified by task; the relative score is the mean over tasks
    of the score divided by the full cache's on the same prompts.
    """
    groups: dict[tuple[str, int, int], dict[str, list[Row]]] = {}
    for row in rows:
        key = (row["policy"], row["identity"]["context_tokens"], row["identity"]["interval"])
        groups.setdefault(key, {}).setdefault(row["task"], []).append(row)
    for (policy, tokens, interval), tasks in groups.items():
        full = groups.get(("full", tokens, interval), {})
        strata, kept, relative = [], [], []
        for task, found in tasks.items():
            scores = [score for row in found for score in row["prompts"]]
            fraction = sum(row["metrics"]["kept_fraction"] for row in found) / len(found)
            reference = [score for row in full.get(task, []) for score in row["prompts"]]
            ratio = (
                sum(scores) / len(scores) / (sum(reference) / len(reference))
                if reference and sum(reference)
                else math.nan
            )
            strata.append(scores)
            kept.append(fraction)
            relative.append(ratio)
            yield policy, task, tokens, interval, bootstrap([scores], seed=0), fraction, ratio
        # tasks have equally many prompts, so the pooled mean is the mean over tasks
        yield (
            policy,
            "all",
            tokens,
            interval,
            bootstrap(strata, seed=0),
            sum(kept) / len(kept),
            sum(relative) / len(relative),
        )


def print_table(rows: Sequence[Row], console: Console) -> None:
    """The comparison, a line each policy, length and interval (mean over tasks)."""
    table = Table("tokens", "interval", "policy", "recall [95% interval]", "of the full cache", "kept")
    for policy, task, tokens, interval, estimate, kept, relative in summarise(rows):
        if task == "all":
            table.add_row(
                str(tokens), str(interval), policy,
                f"{100 * estimate.value:.1f}% [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]",
                f"{100 * relative:.1f}%", f"{100 * kept:.1f}%",
            )  # fmt: skip
    console.print(table)


def _check(config: TextConfig) -> None:
    rivals_known = [name for name in POLICIES if name not in ("namm", "full")]
    known = [*NAMM_LABELS, "full", *rivals_known, *(name + ALLOCATED for name in rivals_known)]
    for name in config.policy:
        if name not in known:
            raise UnknownNameError(f"Unknown policy {name!r}. {did_you_mean(name, known)}")
    rivals = [name for name in config.policy if name != "full" and name not in NAMM_LABELS]
    if rivals and config.match not in config.policy:
        raise ConfigError(f"{', '.join(rivals)} are matched to {config.match!r}, which is not among --policy; add it.")
    for task in config.tasks:
        get_task(task)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 for a mistake in the input, 130 when interrupted."""

    def work() -> None:
        config = tyro.cli(TextConfig, args=argv, description=(__doc__ or "").partition("\n\n")[0], prog="namm-text")
        print_table(run(config, Console()), Console())

    return exit_code(work, "finished rows are kept, the same command continues.")


if __name__ == "__main__":
    sys.exit(main())
