"""The numbers of an evolution that are watched, by the names that the page, the terminal and W&B share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AXIS = "evolution/generation"
"""What every other number is drawn over."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What one generation's row says; what it does not say is left out.

    Args:
        row: Of history.jsonl.
    """
    fitness, search, noise = row["fitness"], row["search"], row["noise"]
    validation = row["validation"] or {}
    found: dict[str, Any] = {
        "generation": row["generation"],
        "stage": row["stage"],
        "fitness_mean": fitness["mean"],
        "fitness_best": fitness["max"],
        "fitness_std": fitness["std"],
        "fitness_noise": noise["deviation"],
        "signal_share": noise["signal_share"],
        "validation": validation.get("score"),
        "validation_best": validation.get("best"),
        "validation_kept_fraction": validation.get("extras", {}).get("kept_fraction"),
        "validation_relative_score": validation.get("extras", {}).get("relative_score"),
        "kept_fraction": row["extras"].get("kept_fraction"),
        "relative_score": row["extras"].get("relative_score"),
        "sigma": search["sigma"],
        "axis_ratio": search["axis_ratio"],
        "mean_norm": search["mean_norm"],
        "step_norm": search["step_norm"],
        "failed_candidates": row["failed"],
        "seconds": row["seconds"],
    }
    return {f"evolution/{name}": value for name, value in found.items() if isinstance(value, int | float)}


def line(row: Mapping[str, Any]) -> str:
    """One generation as a line for a terminal, and another where the mean was validated."""
    found = {name.removeprefix("evolution/"): value for name, value in numbers(row).items()}

    def part(label: str, name: str, form: str) -> str:
        return f"  {label} {found[name]:{form}}" if name in found else ""

    text = (
        f"generation {row['generation']:4d}"
        + part("fitness", "fitness_mean", "+.3f")
        + part("best", "fitness_best", "+.3f")
        + part("std", "fitness_std", ".3f")
        + part("noise", "fitness_noise", ".3f")
        + part("signal", "signal_share", ".0%")
        + part("score", "relative_score", ".3f")
        + part("kept", "kept_fraction", ".3f")
        + part("sigma", "sigma", ".4f")
        + part("axes", "axis_ratio", ".2f")
        + part("", "seconds", ".1f")
        + " s"
    )
    if row["failed"]:
        text += f"\n    {row['failed']} candidates failed: {'; '.join(row['errors']) or 'fitness not finite'}"
    if row.get("flat"):
        text += (
            "\n    warning: all candidates scored the same, so the search has learned nothing and walked at random "
            f"({row['flat']} in a row)"
        )
    if "validation" in found:
        text += (
            "\n    mean on validation"
            + part("fitness", "validation", "+.3f")
            + part("best", "validation_best", "+.3f")
            + part("score", "validation_relative_score", ".3f")
            + part("kept", "validation_kept_fraction", ".3f")
        )
    return text
