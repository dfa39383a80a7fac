"""What text-v2 is judged on, once: test prompts of text beside text-v1 and rivals of its size, mazes and Hopper.

No choice was made on any of it. On text every policy answers the same prompts, so differences are paired; rivals hold
the mean number of slots that text-v2 held on the task when the question came (rounded up), the same in every head, or
with `@heads` as many as it held in each layer and head. text-v1 is there at its own size and three times at text-v2's:
its threshold raised on validation prompts (`@size`), or filling, without a threshold, the rivals' budget (`@budget`) or
what text-v2 held in each layer and head (`@heads`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import checkpoints
from evaluations.analysis.estimates import bootstrap
from evaluations.analysis.summary import TargetSummary, summarise
from evaluations.evolve import load_source
from evaluations.rl import RLConfig
from evaluations.rl import run as run_control
from evaluations.rows.file import RowsFile
from evaluations.tasks.recall.tasks import TASKS, TextPrompts, get_task, test_seed, validation_seed
from modalities.language.recall import Recall, recall
from namm import NAMM
from namm.errors import ConfigError
from namm.files import write_atomically
from namm.policies import Policy, make_policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHIPPED = Path(checkpoints.__file__).parent
OURS, EARLIER, FULL = "text-v2", "text-v1", "full"
AT_SIZE, AT_BUDGET, AT_HEADS = f"{EARLIER}@size", f"{EARLIER}@budget", f"{EARLIER}@heads"
BATCH = 32
FURTHEST, HALVINGS = 12, 10


@dataclass(frozen=True)
class JudgeConfig:
    """What is compared with what."""

    namm: Path = SHIPPED / "namm" / "text-v2"
    """The NAMM that is judged."""

    earlier: Path = SHIPPED / "namm" / "text-v1"
    """The NAMM that it should beat."""

    source: str = str(SHIPPED / "text" / "recall-llama")
    """The text model."""

    conditions: tuple[tuple[int, int], ...] = ((288, 48), (288, 32), (288, 144), (432, 64), (864, 96))
    """Context tokens and interval."""

    prompts: int = 40
    """Test prompts a task and condition."""

    test_index: int = 0
    """Which draw of test prompts."""

    matching_prompts: int = 40
    """Validation prompts a task and condition on which the earlier NAMM is brought to the size of the judged one."""

    rivals: tuple[str, ...] = ("window", "random", "h2o", "h2o_age", "l2_norm", "keydiff")
    """Rivals with the same size in every head."""

    allocated: tuple[str, ...] = ("window", "random")
    """Rivals that also get its own size in each layer and head."""

    targets: tuple[str, ...] = ("tmaze-150", "tmaze-200", "tmaze-300", "hopper-medium", "hopper-medium-expert")
    """Control targets, zero-shot."""


def judge_text(config: JudgeConfig, work: Path) -> list[dict[str, Any]]:
    """One line a condition, task and policy: recall with its interval, size, paired difference to text-v2.

    Conditions that were finished before are read from `work`.
    """
    torch.set_num_threads(1)
    model = load_source(config.source, torch.float32)
    ours, earlier = NAMM.from_pretrained(config.namm), NAMM.from_pretrained(config.earlier)
    work.mkdir(parents=True, exist_ok=True)
    table = []
    for tokens, interval in config.conditions:
        settings = {**asdict(config), "namm": ours.sha256(), "earlier": earlier.sha256(), "conditions": None}
        path = work / f"{tokens}-{interval}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if found.get("settings") != json.loads(json.dumps(settings)):
            rows = [row for task in TASKS for row in _task_rows(config, model, ours, earlier, task, tokens, interval)]
            found = {"settings": settings, "rows": rows}
            write_atomically(path, json.dumps(found) + "\n")
        table += tabulate(found["rows"], tokens, interval)
    return table


def _task_rows(
    config: JudgeConfig, model: PreTrainedModel, ours: NAMM, earlier: NAMM, task: str, tokens: int, interval: int
) -> Iterator[dict[str, Any]]:
    """Every policy on the prompts of one task."""
    prompts = get_task(task).sample(config.prompts, tokens, test_seed(config.test_index))

    def row(name: str, policy: Policy, **facts: float) -> dict[str, Any]:
        results = list(_batches(model, policy, prompts))
        return facts | {
            "policy": name,
            "task": task,
            "recall": [score for result in results for score in result.accuracy.tolist()],
            "slots": float(np.mean([slots for result in results for slots in result.slots.tolist()])),
            "head_slots": np.mean([result.head_slots for result in results], axis=0).tolist(),
        }

    own = row(OURS, make_policy("namm", namm=ours, interval=interval))
    yield own
    yield row(EARLIER, make_policy("namm", namm=earlier, interval=interval))
    threshold = _matched_threshold(config, model, ours, earlier, task, tokens, interval)
    yield row(AT_SIZE, make_policy("namm", namm=earlier, interval=interval, threshold=threshold), threshold=threshold)
    yield row(FULL, make_policy("full"))
    unjudged = tokens % interval  # what came after the last update is the same for all
    budget = max(4, math.ceil(own["slots"] - unjudged))
    head_budgets = tuple(tuple(max(1, math.ceil(held - unjudged)) for held in layer) for layer in own["head_slots"])
    for name, size in ((AT_BUDGET, {"budget": budget}), (AT_HEADS, {"head_budgets": head_budgets})):
        yield row(name, make_policy("namm", namm=earlier, interval=interval, threshold=-math.inf, **size))
    for name in config.rivals:
        yield row(name, _rival(name, interval, {"budget": budget}))
    for name in config.allocated:
        yield row(f"{name}@heads", _rival(name, interval, {"head_budgets": head_budgets}))


def _matched_threshold(
    config: JudgeConfig, model: PreTrainedModel, ours: NAMM, earlier: NAMM, task: str, tokens: int, interval: int
) -> float:
    """The threshold at which the earlier NAMM holds what ours holds, on validation prompts of the task."""
    prompts = get_task(task).sample(config.matching_prompts, tokens, validation_seed(0))

    def slots(namm: NAMM, threshold: float = 0.0) -> float:
        policy = make_policy("namm", namm=namm, interval=interval, threshold=threshold)
        return float(torch.cat([result.slots for result in _batches(model, policy, prompts)]).mean())

    return largest_holding(lambda threshold: slots(earlier, threshold), slots(ours))


def largest_holding(held: Callable[[float], float], wanted: float) -> float:
    """The largest threshold found, by halving, at which no fewer slots are held than wanted.

    Args:
        held: Slots at a threshold; fewer the higher it is.
        wanted: Slots.

    Raises:
        ConfigError: No threshold has more, or none has fewer slots than wanted.
    """
    steps = [4.0**power for power in range(FURTHEST)]
    low = next((threshold for threshold in (0.0, *(-step for step in steps)) if held(threshold) >= wanted), None)
    high = next((step for step in steps if held(step) < wanted), None)
    if low is None or high is None:
        raise ConfigError(
            f"No threshold within {steps[-1]:.0f} of 0 holds about {wanted} slots; ask for a size in reach."
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) >= wanted else (low, middle)
    return low


def _rival(name: str, interval: int, size: dict[str, Any]) -> Policy:
    return make_policy(name, interval=interval, seed=0 if name == "random" else None, **size)


def _batches(model: PreTrainedModel, policy: Policy, prompts: TextPrompts) -> Iterator[Recall]:
    for start in range(0, len(prompts.context), BATCH):
        rows = slice(start, start + BATCH)
        yield recall(model, policy, prompts.context[rows], prompts.question[rows], prompts.target[rows])


def tabulate(rows: Sequence[dict[str, Any]], tokens: int, interval: int) -> list[dict[str, Any]]:
    """The lines of one condition: every task, then all tasks, whose mean is over tasks of equally many prompts."""
    by_policy: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_policy.setdefault(row["policy"], {})[row["task"]] = row
    ours, full = by_policy[OURS], by_policy[FULL]
    table = []
    for policy, tasks in by_policy.items():
        for task, names in [*((task, [task]) for task in tasks), ("all", list(tasks))]:
            difference = [np.subtract(ours[name]["recall"], tasks[name]["recall"]) for name in names]
            relative = [np.mean(tasks[name]["recall"]) / np.mean(full[name]["recall"]) for name in names]
            line = {
                "context_tokens": tokens,
                "interval": interval,
                "policy": policy,
                "task": task,
                "recall": asdict(bootstrap([tasks[name]["recall"] for name in names], seed=0)),
                "of_full_cache": float(np.mean(relative)),
                "kept_fraction": float(np.mean([tasks[name]["slots"] for name in names])) / tokens,
                "ours_minus": asdict(bootstrap(difference, seed=0)),
            }
            if task != "all" and "threshold" in tasks[task]:
                line["threshold"] = tasks[task]["threshold"]
            if policy == OURS and task == "all":
                heads = np.mean([tasks[name]["head_slots"] for name in names], axis=0) / tokens
                line["kept_by_head"] = heads.round(3).tolist()
            table.append(line)
    return table


def judge_control(config: JudgeConfig, work: Path) -> list[TargetSummary]:
    """The control targets through the harness, text-v2 in place of the default NAMM; finished rows are kept."""
    run_control(RLConfig(env=config.targets, namm=config.namm, out=work, wandb="disabled", video=False), "namm-rl")
    return summarise(list(RowsFile(work / "rows.jsonl").read_new()))
