"""Cards of NAMMs trained by hindsight, and on by soft forgetting.

README.md is made from the card.json that training wrote and from tables of what was measured:
`python checkpoints/recipes/hindsight_card.py --folder FOLDER ... --measured TABLE.md ...`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import tyro

from evaluations.tasks.lessons import DOCUMENTS
from namm.errors import CheckpointError
from namm.files import file_sha256, write_atomically

WIDTH = 120
"""Characters of a line."""


@dataclass(frozen=True)
class CardConfig:
    """Whose cards."""

    folder: tuple[Path, ...]
    """NAMMs, each with a card.json."""

    measured: tuple[Path, ...] = ()
    """Markdown files that are part of every card: what the family was judged on."""


def write_card(folder: Path, measured: Sequence[str]) -> None:
    """Writes README.md.

    Args:
        folder: Of a NAMM.
        measured: Sections of what was measured.

    Raises:
        CheckpointError: The weights are not those that card.json speaks of.
    """
    facts = json.loads((folder / "card.json").read_text())
    sha = file_sha256(folder / "model.safetensors")
    if sha != facts["sha256"]:
        raise CheckpointError(
            f"{folder}: expected the weights of its card.json ({facts['sha256']}), found {sha}; train again."
        )
    stages = [facts]
    while stages[0].get("start"):
        stages.insert(0, stages[0]["start"])
    evolved = [stage for stage in stages if "evolution" in stage]
    first, *soft = [stage for stage in stages if "evolution" not in stage]
    lines = [*_about(folder.name, first, [stage["command"] for stage in stages], bool(evolved)), ""]
    lines += [*_training(first), ""]
    if soft:
        lines += ["## Soft forgetting", ""]
    for stage in soft:
        lines += [*_forgetting(stage), ""]
    if evolved:
        lines += ["## Evolution", ""]
    for stage in evolved:
        lines += [*_evolution(stage), ""]
    for section in measured:
        lines += [section.strip(), ""]
    found = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    lines += [f"sha256 of model.safetensors: `{sha}`", "", f"Versions: {found}."]
    write_atomically(folder / "README.md", "\n".join(lines) + "\n")


def _about(name: str, facts: Mapping[str, Any], commands: Sequence[str], evolved: bool) -> Iterator[str]:
    yield f"# NAMM {name}"
    yield ""
    made = ", then ".join(f"`{command}`" for command in commands)
    yield fill(
        f"{facts['params']} numbers, trained by gradient to foresee which tokens will matter, "
        f"{'then evolved' if evolved else '**not evolved**'}. Attach it with `sequence` statistics; "
        "`namm-evolve --start` takes it, too. Besides a token's "
        f"age it reads {_list(facts['signals'])}. Made with {made}; the seed, {facts['seed']}, "
        "decides the first numbers and the order of the prompts.",
        WIDTH,
    )
    yield ""
    sources = "; ".join(
        f"{count} prompts ({_list(task for task in dict.fromkeys(course['tasks']) if _is_taught(task, facts))}; "
        f"{_list(course['lengths'])} tokens, intervals {_list(course['intervals'])})"
        for count, course in zip(facts["prompts"], facts["courses"], strict=True)
    )
    yield fill(
        f"Source: SmolLM2-135M-Instruct, {sources}. No reward, no control task and no test prompt was seen. Labels "
        "use the answers. Needles of some tasks hide in all of Python's documentation.",
        WIDTH,
    )


def _is_taught(task: str, facts: Mapping[str, Any]) -> bool:
    return facts["documents"] or task != DOCUMENTS


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    losses, sized, orders = facts["losses"], facts["calibration"], facts["training"].get("orders", 1)
    answered = facts.get("answered") or ()
    chosen = (
        f" Of {len(answered)} first numbers, trained alike, these answered validation prompts best, at "
        f"{max(answered):.1f} percent of the full cache's likelihood (the others "
        f"{_list(f'{each:.1f}' for each in sorted(answered)[:-1])})."
        if answered
        else ""
    )
    averaged = f", the average of {orders} such trainings from the same first numbers" if orders > 1 else ""
    yield "## Training"
    yield ""
    yield fill(
        f"{facts['training']['steps']} steps{averaged}; cross-entropy of shares of worth less that of equal shares, "
        f"mean of the first hundred steps {losses[0]:.3f}, of the last {losses[-1]:.3f} nats. The threshold was "
        f"searched for on other prompts, no answer asked: wanted {facts['keep']:.0%}, found "
        f"{sized['kept_fraction']:.1%} of them. {facts['cpu_seconds']:.0f} CPU seconds beside the recordings.{chosen}",
        WIDTH,
    )
    if "note" in facts:
        yield ""
        yield fill(facts["note"], WIDTH)


def _forgetting(facts: Mapping[str, Any]) -> Iterator[str]:
    training, course, sizes = facts["training"], facts["course"], facts["sizes"]
    small = facts.get("small_course")
    also = f", and one of recall ({_list(small['tasks'])}) of a second model" if small else ""
    yield fill(
        f"{training['steps']} steps of {training['batch']} prompts ({_list(dict.fromkeys(course['tasks']))}) of "
        f"{_list(course['lengths'])} tokens, interval {_list(course['intervals'])}{also}, each read under the NAMM as "
        f"it was and once more with every token weighing what {_weighing(training)}. Nats a wanted token of that "
        "second reading, the mean of the first thirty steps and of the last: "
        + "; ".join(f"{task} {_from_to(ends)}" for task, ends in facts["losses"].items())
        + f". The part that is kept was held at {training['keep']:.0%} by moving the threshold, which was searched for "
        f"once more at the end (found {sizes['after']['kept_fraction']:.1%}). {facts['cpu_seconds']:.0f} CPU seconds.",
        WIDTH,
    )


def _evolution(facts: Mapping[str, Any]) -> Iterator[str]:
    asked, course, small = facts["evolution"], facts["courses"][0], facts["courses"][-1]
    found = {int(generation): each for generation, each in facts["validations"].items()}
    before, best = facts["start_validation"], found[facts["best_generation"]]
    size = (
        f"every candidate at the threshold under which it keeps about {asked['keep']:.0%}"
        if asked["keep"] is not None
        else "thresholds evolved as all numbers"
    )
    real = (
        f"{asked['real_prompts']} prompts of {Path(asked['real']).name} ({_list(dict.fromkeys(course['tasks']))}; "
        f"{_list(course['lengths'])} tokens) and "
        if asked["real"]
        else ""
    )
    kept = "the evolved was kept" if facts["evolved_is_better"] else "the start was kept"
    yield fill(
        f"{asked['generations']} generations of {asked['population']} candidates (CMA-ES, isotropic, sigma "
        f"{asked['sigma']}), {size}. Fitness of a generation: likelihood of a wanted token beside the full cache's, on "
        f"{real}{asked['small_prompts']} of {Path(asked['small']).name} ({_list(small['tasks'])}), the mean of the "
        f"models, less {asked['price']} for a whole context. On validation prompts {before['score']:.4f} before "
        f"(likelihood {before['likelihood_ratio']:.1%}, kept {before['kept_fraction']:.1%}) and {best['score']:.4f} at "
        f"best, after generation {facts['best_generation']} ({best['extras']['likelihood_ratio']:.1%}, kept "
        f"{best['extras']['kept_fraction']:.1%}): {kept}. {facts['seconds']:.0f} seconds of one thread.",
        WIDTH,
    )


def _weighing(training: Mapping[str, Any]) -> str:
    """What decides the weight of a token; cards from before there was a choice know the product alone."""
    last = training.get("last_softness")
    softness = f"{training['softness']}" if last is None else f"{training['softness']} falling to {last}"
    scores = "its least score says" if training.get("gate") == "least" else "its scores say"
    return f"{scores} (softness {softness} deviations)"


def _from_to(ends: Sequence[float | None]) -> str:
    return " to ".join("none" if end is None else f"{end:.2f}" for end in ends)


def _list(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def main(config: CardConfig) -> None:
    """Writes every card."""
    measured = [path.read_text() for path in config.measured]
    for folder in config.folder:
        write_card(folder, measured)


if __name__ == "__main__":
    main(tyro.cli(CardConfig, description=(__doc__ or "").partition("\n\n")[0]))
