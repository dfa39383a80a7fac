"""Which tokens are held, layer by layer and head by head, as a picture: position along, one line a KV head.

For any memory (`held_now`) and any array of the same form, such as a row's trace
(`evaluations.language.trace.kept_of`).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import PercentFormatter

from evaluations.report.figures import INK, NAMM_COLOUR, STYLE
from namm import Memory
from namm.errors import ConfigError

HELD = LinearSegmentedColormap.from_list("held", ["#e9edf1", "#0b4f8a"])
COLUMNS = 600
"""Columns of the picture at most; of longer contexts each shows the share of its tokens that is held."""
MOST_LABELS = 24
"""Lines that are named one by one; of more, one a layer is."""


def held_now(memory: Memory, row: int = 0) -> Bool[np.ndarray, "layers kv_heads tokens"]:
    """Which tokens seen so far a memory holds, for one sequence of its batch.

    Raises:
        ConfigError: The memory has seen nothing, or has no such row.
    """
    batch = memory.seen.shape[0]
    if not 0 <= row < batch:
        raise ConfigError(
            f"Expected a row of the memory's batch of {batch}, found {row}; a memory holds what the last generate() or "
            "forward call inside `with attach(...)` read."
        )
    layers = [memory.kept_positions(layer)[row] for layer in sorted(memory.layers)]
    held = np.zeros((len(layers), layers[0].shape[0], int(memory.seen[row])), dtype=bool)
    for layer, heads in enumerate(layers):
        for head, positions in enumerate(heads):
            held[layer, head, positions[positions >= 0].numpy()] = True
    return held


def kept_tokens(
    held: Bool[np.ndarray, "layers kv_heads tokens"], prompt_tokens: int | None = None, title: str | None = None
) -> Figure:
    """The tokens that each layer and KV head holds, and beside them how many these are.

    Args:
        held: Which.
        prompt_tokens: Where generation began, marked by a line.
        title: Above; by default how much is held.
    """
    layers, heads, tokens = held.shape
    lines = layers * heads
    share = _binned(held.reshape(lines, tokens))
    if title is None:
        title = f"{100 * held.mean():.0f}% of {tokens} tokens held"
    with context(STYLE):
        figure = Figure(figsize=(9.2, 1.3 + 0.19 * min(lines, 60)), layout="constrained")
        tokens_axes, slots_axes = figure.subplots(1, 2, sharey=True, width_ratios=(6, 1))
        tokens_axes.imshow(
            share, aspect="auto", interpolation="nearest", cmap=HELD, vmin=0, vmax=1,
            extent=(0, tokens, lines - 0.5, -0.5),
        )  # fmt: skip
        for layer in range(1, layers):
            tokens_axes.axhline(layer * heads - 0.5, color="white", linewidth=1)
        if prompt_tokens is not None:
            tokens_axes.axvline(prompt_tokens, color=NAMM_COLOUR, linewidth=1.2)
            tokens_axes.annotate(
                "generation begins", (prompt_tokens, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="right", va="bottom", fontsize=8, color=NAMM_COLOUR,
            )  # fmt: skip
        step = 1 if lines <= MOST_LABELS else heads
        named = range(0, lines, step)
        labels = [f"{line // heads} · {line % heads}" if step == 1 else str(line // heads) for line in named]
        tokens_axes.set_yticks(list(named), labels)
        tokens_axes.set_ylabel("layer · KV head" if step == 1 else "layer")
        tokens_axes.set_xlabel("position of the token")
        tokens_axes.set_title(title)
        slots_axes.barh(range(lines), held.reshape(lines, tokens).mean(1), color=INK, height=0.8)
        slots_axes.set_xlim(0, 1)
        slots_axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        slots_axes.set_xlabel("held")
        slots_axes.tick_params(left=False)
    return figure


def _binned(held: Bool[np.ndarray, "lines tokens"]) -> Float[np.ndarray, "lines columns"]:
    """Share of the tokens held in each of at most COLUMNS equal stretches."""
    tokens = held.shape[1]
    edges = np.linspace(0, tokens, min(tokens, COLUMNS) + 1).astype(int)
    totals = np.concatenate([np.zeros((held.shape[0], 1)), held.cumsum(1)], axis=1)
    return np.diff(totals[:, edges], axis=1) / np.diff(edges)
