"""Cards of hindsight NAMMs: README.md from the card.json that training wrote and from tables of what was measured.

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

from evaluations.rows.results import file_sha256
from namm.errors import CheckpointError
from namm.files import write_atomically

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
    lines = [*_about(folder.name, facts), "", *_training(facts), ""]
    for section in measured:
        lines += [section.strip(), ""]
    found = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    lines += [f"sha256 of model.safetensors: `{sha}`", "", f"Versions: {found}."]
    write_atomically(folder / "README.md", "\n".join(lines) + "\n")


def _about(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    real, small = facts["courses"]["real"], facts["courses"]["small"]
    yield f"# NAMM {name}"
    yield ""
    yield fill(
        f"{facts['params']} numbers, trained by gradient to foresee which tokens will matter, **not evolved**: a start "
        "for `namm-evolve --start`, attachable as it is with `sequence` statistics. Besides a token's "
        f"age it reads {_list(facts['signals'])}. Made with `{facts['command']}`; seed {facts['seed']} of its recipe "
        "decides its share of the prompts, the first numbers and the order.",
        WIDTH,
    )
    yield ""
    yield fill(
        f"Sources: {facts['prompts'][0]} prompts of SmolLM2-135M-Instruct ({_list(dict.fromkeys(real['tasks']))}; "
        f"{_list(real['lengths'])} tokens, intervals {_list(real['intervals'])}) and {facts['prompts'][1]} of the "
        f"shipped recall-llama ({_list(small['tasks'])}; {_list(small['lengths'])} tokens, intervals "
        f"{_list(small['intervals'])}); two thirds of them for each seed. No reward, no control task and no validation "
        "or test prompt was seen. Labels use the answers. Documents are the training split of Python's library; "
        "needles of some tasks hide in all of Python's documentation, test documents included.",
        WIDTH,
    )


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    first, second = facts["losses"]
    caught = [_list(f"{share:.3f}" for share in facts[name]) for name in ("caught_before", "caught")]
    yield "## Training"
    yield ""
    yield "| | full-cache recordings | then half of them under the NAMM itself |"
    yield "|---|---|---|"
    yield f"| loss, first hundred steps | {first[0]:.3f} | {second[0]:.3f} |"
    yield f"| loss, last hundred steps | {first[-1]:.3f} | {second[-1]:.3f} |"
    yield f"| share of worth in the best {facts['keep']:.0%} (real, small) | {caught[0]} | {caught[1]} |"
    if "note" in facts:
        yield ""
        yield fill(facts["note"], WIDTH)
    yield ""
    kept = ", ".join(f"{kept:.1%}" for _, kept in facts["calibration"])
    yield fill(
        "Shares are those of prompts that this seed was not trained on. The threshold was moved on other prompts; "
        f"kept on them, attempt by attempt: {kept}. {facts['cpu_seconds']:.0f} CPU seconds beside the recordings.",
        WIDTH,
    )


def _list(values: Any) -> str:
    return ", ".join(str(value) for value in values)


def main(config: CardConfig) -> None:
    """Writes every card."""
    measured = [path.read_text() for path in config.measured]
    for folder in config.folder:
        write_card(folder, measured)


if __name__ == "__main__":
    main(tyro.cli(CardConfig, description=(__doc__ or "").partition("\n\n")[0]))
