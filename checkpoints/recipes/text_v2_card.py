"""The card of text-v2: README.md and card.json beside the weights. Every figure and verdict is computed from rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.recipes.text_v2_judge import AT_BUDGET, AT_HEADS, AT_SIZE, EARLIER, OURS, JudgeConfig
from checkpoints.recipes.text_v2_stages import Stage
from evaluations.analysis.estimates import Estimate
from evaluations.analysis.summary import PolicySummary, TargetSummary
from evaluations.evolution.recall_fitness import RecallFitnessConfig
from evaluations.evolve import EvolveConfig
from evaluations.rows.provenance import versions
from namm import NAMM
from namm.files import file_sha256, write_atomically

COMMAND = "python checkpoints/recipes/text_v2.py"
AGAIN = "again.json"
"""Beside weights that one run of the command did not make: what such a run came to, and sha256 of those weights."""
Line = dict[str, Any]


def write_card(
    out: Path,
    runs: Mapping[str, EvolveConfig],
    stages: Mapping[str, Stage],
    choice: RecallFitnessConfig,
    least_score: float,
    chosen: str,
    reached: Mapping[str, Mapping[str, float]],
    judge: JudgeConfig,
    table: Sequence[Line],
    control: Sequence[TargetSummary],
    seed: int = 0,
) -> None:
    """Writes both files.

    Args:
        out: Folder of the weights.
        runs: The evolutions.
        stages: What they are, by the same names.
        choice: What they were chosen on; those below `least_score` come last.
        chosen: The one that ships.
        reached: What each reached on validation prompts.
        judge: How the chosen one was judged.
        table: Lines of `judge_text`; `control` has summaries of `judge_control`.
        seed: Added to the seed of every stage; 0 is the shipped one's.
    """
    command = f"{COMMAND} --seed {seed}" if seed else COMMAND
    sha = file_sha256(out / "model.safetensors")
    seconds = {name: _seconds(run.out) for name, run in runs.items()}
    found = versions(("torch", "transformers", "numpy"))
    facts = {
        "command": command,
        "sha256": sha,
        "namm_sha256": NAMM.from_pretrained(out).sha256(),
        "chosen": chosen,
        "validation": {name: dict(values) for name, values in reached.items()},
        "seconds": seconds,
        "stages": {name: {**asdict(stage), "seed": runs[name].seed} for name, stage in stages.items()},
        "choice": {**asdict(choice), "least_score": least_score},
        **_judged(judge, table, control),
        "versions": found,
    }
    write_atomically(out / "card.json", json.dumps(facts, indent=1) + "\n")
    lines = [
        f"# NAMM text-v2, seed {seed}" if seed else "# NAMM text-v2",
        "",
        "4172 numbers, evolved on text alone (recall tasks on the shipped `checkpoints/text/recall-llama`); no other",
        f"model, modality or reward was ever seen. Made again by `{command}`.",
        "",
        *_how(runs, stages, choice, least_score, chosen, reached, seconds, origin(out / AGAIN, sha)),
        "",
        *_text(judge, table),
        "",
        *_control(control),
        "",
        f"sha256 of model.safetensors: `{sha}`",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in found.items()) + ".",
    ]
    write_atomically(out / "README.md", "\n".join(lines) + "\n")


def _judged(judge: JudgeConfig, table: Sequence[Line], control: Sequence[TargetSummary]) -> dict[str, Any]:
    """How it was judged, and what came of it."""
    return {
        "judge": {name: value for name, value in asdict(judge).items() if not isinstance(value, Path | str)},
        "test": list(table),
        "control": [control_line(summary, policy) for summary in control for policy in summary.policies],
    }


def _how(
    runs: Mapping[str, EvolveConfig],
    stages: Mapping[str, Stage],
    choice: RecallFitnessConfig,
    least_score: float,
    chosen: str,
    reached: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, float],
    came: Sequence[str],
) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    yield "Isotropic CMA-ES, population 32, the mean with the best validation deployed. Fitness: recall relative to the"
    yield "full cache on the same fresh prompts (pairs, passkey, copy, variables; the same for all candidates), less a"
    yield "price times kept fraction. Contexts of 288 tokens. Stages:"
    yield ""
    yield (
        "| stage | starts from | cap on every head | price | intervals, one drawn a generation | statistics "
        "| prompts a task | generations | start sigma | seed | seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for name, stage in stages.items():
        fitness = stage.fitness
        factors = f", factors of spread {fitness.rescale}" if fitness.rescale else ""
        yield (
            f"| {name} | {stage.after or 'nothing'} | {fitness.budget_fraction or 'none'} | {fitness.price} "
            f"| {_list(fitness.intervals)} | {_list(fitness.statistics)}{factors} | {fitness.prompts} "
            f"| {runs[name].generations} | {stage.sigma} | {runs[name].seed} | {seconds[name]:.0f} |"
        )
    yield ""
    yield from came
    yield ""
    yield f"Chosen on validation prompts: contexts of {_list(choice.context_tokens)} tokens, intervals"
    yield f"{_list(choice.intervals)}, no cap, {choice.validation_prompts} prompts a task and condition,"
    yield f"price {choice.price}; those with less than {least_score:.0%} of the full cache's score come last:"
    yield ""
    yield "| stage | validation fitness | score of full | kept |"
    yield "|---|---|---|---|"
    for name, row in reached.items():
        yield (
            f"| {name}{' (shipped)' if name == chosen else ''} | {row['fitness']:.3f} | {100 * row['score']:.1f}% "
            f"| {100 * row['kept']:.1f}% |"
        )


def origin(again: Path, sha: str) -> list[str]:
    """Whether one run of the command made the weights, or what such a run came to that was made beside them."""
    found = json.loads(again.read_text(encoding="utf-8")) if again.exists() else {}
    if found.get("beside") != sha:
        return ["The command ran all of them."]
    reached = found["validation"][found["chosen"]]
    return [
        "The shipped weights come of these stages, started one by one by hand; how long each ran was decided while",
        "looking at validation. The first ran on an earlier state of the code than the others, and later changes",
        "round differently, so the command makes a NAMM by the same rules, not the same bits. It was since run whole,",
        f"from nothing, in {found['seconds']:,} s on one core: {found['chosen']} was chosen, with validation fitness",
        f"{reached['fitness']:.3f}, {100 * reached['score']:.1f}% of the full cache's score and "
        f"{100 * reached['kept']:.1f}% kept. What agrees with the shipped",
        f"weights and what does not is in docs/evolution.md; its numbers are in `{AGAIN}`.",
    ]


def _text(judge: JudgeConfig, table: Sequence[Line]) -> Iterator[str]:
    overall = [line for line in table if line["task"] == "all"]
    yield "## On test prompts"
    yield ""
    yield f"{judge.prompts} prompts a task and condition, from seeds and documents that neither evolution nor choice"
    yield "has seen. Rivals hold the mean number of slots that text-v2 held on the task when the question came, rounded"
    yield "up; `@heads` gives them its size in each layer and head: what is left of its lead there is its choice of"
    yield "tokens, not of heads. text-v1 is there at its own size and three times at that of text-v2:"
    yield f"`{AT_SIZE}` by the one threshold a task and condition at which it holds no fewer slots on validation"
    yield f"prompts, heads as uneven as it likes; `{AT_BUDGET}` with its best tokens in the rivals' budget, every head"
    yield f"alike; `{AT_HEADS}` with its best tokens in each of text-v2's heads. Mean over tasks, 95%"
    yield "bootstrap intervals over prompts stratified by task; the difference is paired on prompts."
    yield ""
    yield "| context | interval | policy | recall | of the full cache | kept | text-v2 − policy |"
    yield "|---|---|---|---|---|---|---|"
    for line in overall:
        paired = "–" if line["policy"] == OURS else _percent(line["ours_minus"], signed=True)
        yield (
            f"| {line['context_tokens']} | {line['interval']} | {line['policy']} | {_percent(line['recall'])} "
            f"| {100 * line['of_full_cache']:.1f}% | {100 * line['kept_fraction']:.1f}% | {paired} |"
        )
    yield ""
    yield "By task, recall of text-v2 and of the rival of its size that did best (`@heads` apart):"
    yield ""
    yield f"| context | interval | task | text-v2 | kept | text-v1 | kept | {AT_SIZE} | kept | best rival |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for line in (line for line in table if line["policy"] == OURS and line["task"] != "all"):
        here = _same(table, line)
        best = max((here[name] for name in judge.rivals), key=lambda rival: rival["recall"]["value"])
        held = (
            f"{_percent(which['recall'])} | {100 * which['kept_fraction']:.1f}%"
            for which in (line, here[EARLIER], here[AT_SIZE])
        )
        yield (
            f"| {line['context_tokens']} | {line['interval']} | {line['task']} | {' | '.join(held)} "
            f"| {best['policy']} {_percent(best['recall'])} |"
        )
    yield ""
    yield "What the intervals say:"
    yield ""
    for line in overall:
        if line["policy"] == OURS:
            yield (
                f"- {line['context_tokens']} tokens, interval {line['interval']}: "
                + "; ".join(text_verdicts(judge, table, line))
                + "."
            )
    yield ""
    yield "What it keeps, in % of the context, by layer and KV head, mean over tasks:"
    yield ""
    for line in overall:
        if line["policy"] == OURS:
            yield f"- {line['context_tokens']} tokens, interval {line['interval']}: " + "; ".join(
                f"layer {index}: " + ", ".join(f"{100 * head:.0f}" for head in heads)
                for index, heads in enumerate(line["kept_by_head"])
            )


def text_verdicts(judge: JudgeConfig, table: Sequence[Line], ours: Line) -> Iterator[str]:
    """What one condition says of text-v1, of rivals of its size on each task, and of its choice of tokens."""
    here = _same(table, ours)
    for name in (EARLIER, AT_SIZE, AT_BUDGET, AT_HEADS):
        difference, size = Estimate(**here[name]["ours_minus"]), ours["kept_fraction"] / here[name]["kept_fraction"]
        recall = "more" if difference.low > 0 else "LESS" if difference.high < 0 else "not told apart"
        yield f"against {name} {size:.2f}x the slots, recall {recall} ({_percent(asdict(difference), signed=True)})"
    tasks = [
        line
        for line in table
        if line["policy"] == OURS and line["task"] != "all" and _condition(line) == _condition(ours)
    ]
    groups: dict[str, list[str]] = {"BEHIND": [], "not told apart from": []}
    for line, rival in ((line, rival) for line in tasks for rival in judge.rivals):
        said = _said(_same(table, line)[rival])
        if said in groups:
            groups[said].append(f"{rival} on {line['task']}")
    named = [f"{said} {_list(names)}" for said, names in groups.items() if names]
    if named:
        yield f"of rivals of its size and single tasks, {', '.join(named)}, ahead in all else"
    else:
        yield "ahead of every rival of its size on every task"
    for name in (f"{rival}@heads" for rival in judge.allocated):
        yield f"{_said(here[name])} {name} ({_percent(here[name]['ours_minus'], signed=True)})"


def _said(line: Line) -> str:
    """Where text-v2 stands to the policy of a line, by the paired difference."""
    left = Estimate(**line["ours_minus"])
    return "ahead of" if left.low > 0 else "BEHIND" if left.high < 0 else "not told apart from"


def _control(control: Sequence[TargetSummary]) -> Iterator[str]:
    yield "## Zero-shot on control"
    yield ""
    yield "Attached unchanged to Decision Transformers (`python evaluations/rl.py --namm checkpoints/namm/text-v2`);"
    yield "success in % in mazes, D4RL's normalised score on Hopper. Rivals hold the mean size of the NAMM variant"
    yield "they are matched to; differences are paired on reset seeds, p corrected for the number of rivals (Holm)."
    yield "The variant that is compared is chosen for each seed on the other seeds."
    yield ""
    yield "| target | policy | score | kept | NAMM − policy, p |"
    yield "|---|---|---|---|---|"
    for summary in control:
        for policy in summary.policies:
            paired = "–"
            if policy.versus_namm is not None:
                value = policy.versus_namm.difference
                paired = f"{value.value:+.1f} [{value.low:+.1f}, {value.high:+.1f}], {_p(policy)}"
            score = policy.score
            yield (
                f"| {summary.target} | {policy.policy} | {score.value:.1f} [{score.low:.1f}, {score.high:.1f}] "
                f"| {100 * (policy.metric('kept_fraction') or 0.0):.1f}% | {paired} |"
            )
    yield ""
    for summary in control:
        yield f"- {summary.target}: {control_verdict(summary)}."


def control_verdict(summary: TargetSummary) -> str:
    """What the paired differences of one target say."""
    if summary.contender is None:
        return "no NAMM was played"
    rivals = [rival for rival in summary.rivals if rival.versus_namm is not None]
    groups: dict[str, list[str]] = {"ahead of": [], "not told apart from": [], "BEHIND": []}
    for rival in rivals:
        paired = rival.versus_namm
        assert paired is not None  # filtered above
        said = "not told apart from" if not paired.is_clear else "ahead of" if paired.difference.value > 0 else "BEHIND"
        groups[said].append(rival.policy)
    said = "; ".join(f"{words} {_list(names)}" for words, names in groups.items() if names)
    return f"{summary.contender.policy} {summary.contender.score.value:.1f}, {said}"


def control_line(summary: TargetSummary, policy: PolicySummary) -> Line:
    """One policy on one target, for card.json."""
    paired = policy.versus_namm
    return {
        "target": summary.target,
        "policy": policy.policy,
        "score": asdict(policy.score),
        "score_name": policy.score_name,
        "kept_fraction": policy.metric("kept_fraction"),
        "slots": policy.metric("slots_mean"),
        "namm_minus": None if paired is None else {**asdict(paired), "clear": paired.is_clear},
    }


def _same(table: Sequence[Line], line: Line) -> dict[str, Line]:
    """The lines of the same condition and task, by policy."""
    return {
        other["policy"]: other
        for other in table
        if _condition(other) == _condition(line) and other["task"] == line["task"]
    }


def _condition(line: Line) -> tuple[int, int]:
    return line["context_tokens"], line["interval"]


def _percent(estimate: Mapping[str, float], signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (format(100 * estimate[name], f"{sign}.1f") for name in ("value", "low", "high"))
    return f"{value}{'' if signed else '%'} [{low}, {high}]"


def _p(policy: PolicySummary) -> str:
    paired = policy.versus_namm
    assert paired is not None  # asked only where there is one
    p_value = paired.p_value if paired.adjusted is None else paired.adjusted
    return f"p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}"


def _list(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def _seconds(folder: Path) -> float:
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return float(np.sum([json.loads(line)["seconds"] for line in lines]))
