"""Pictures of what a NAMM keeps: layers and heads down, positions of the context across, kept fraction as colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalities.language.prompts import Group, Prompt
from modalities.language.reading import read
from namm.policies import Policy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BINS = 96
"""Most columns of a picture."""


def kept_map(model: PreTrainedModel, policy: Policy, contexts: Sequence[Sequence[int]]) -> np.ndarray:
    """Kept fraction by layer, KV head and part of the context, mean over contexts.

    Args:
        model: A causal language model.
        policy: Governs its cache while it reads.
        contexts: Token ids; they may have any lengths.

    Returns:
        float64 [layers, kv_heads, bins].
    """
    prompts = [Prompt(tuple(context[:-1]), tuple(context[-1:])) for context in contexts]
    groups = [Group((row,), len(prompt.context), row) for row, prompt in enumerate(prompts)]
    answers, _ = read(model, policy, prompts, groups, traced=frozenset(range(len(prompts))))
    bins = min(BINS, min(len(prompt.context) for prompt in prompts))
    total: np.ndarray | None = None
    for row, prompt in enumerate(prompts):
        edges = np.linspace(0, len(prompt.context), bins + 1)
        kept = answers[row].kept
        assert kept is not None  # every row is traced
        counts = np.array([[np.histogram(head, edges)[0] for head in layer] for layer in kept], dtype=np.float64)
        part = counts / np.maximum(1, np.histogram(np.arange(len(prompt.context)), edges)[0])
        total = part if total is None else total + part
    assert total is not None  # there is at least one context
    return total / len(prompts)


def draw_kept(kept: np.ndarray, tokens: int, title: str, path: Path) -> None:
    """Writes the picture as a PNG.

    Args:
        kept: From `kept_map`.
        tokens: Length of the contexts.
        title: Above it.
        path: Where it goes.
    """
    from matplotlib.figure import Figure

    layers, heads, _ = kept.shape
    figure = Figure(figsize=(9, 1.1 + 0.24 * layers * heads), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        kept.reshape(layers * heads, -1), aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest",
        extent=(0, tokens, layers * heads, 0),
    )  # fmt: skip
    axes.set_yticks([row + 0.5 for row in range(layers * heads)])
    labels = [
        f"layer {layer} head {head}  {kept[layer, head].mean():.0%}" for layer in range(layers) for head in range(heads)
    ]
    axes.set_yticklabels(labels, fontsize=7)
    axes.set_xlabel("position in the context (tokens)")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="kept fraction")
    figure.savefig(path, dpi=110)
