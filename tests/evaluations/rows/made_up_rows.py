"""Made-up rows of a finished control experiment, in the format that evaluations/control/cells.py writes."""

from __future__ import annotations

import base64

import numpy as np

from evaluations.analysis.survival import held_when_asked
from evaluations.language.trace import packed
from evaluations.rows.provenance import made_with
from evaluations.rows.results import Cell, Row

VERSIONS = made_with("control")
POLICIES = {
    # policy: (score, spread, mean slots, budget)
    "native_window": (99.0, 1.0, 58.0, None),
    "full": (74.0, 9.0, 1500.0, None),
    "window": (97.0, 1.5, 71.0, 48),
    "random": (92.0, 4.0, 71.0, 48),
    "oldest": (37.0, 8.0, 71.0, 48),
    "namm:source": (70.0, 8.0, 60.0, None),
    "namm:target": (98.0, 1.0, 70.5, None),
}


def made_up_rows(target: str = "hopper", seeds: int = 3, episodes: int = 4, binary: bool = False) -> list[Row]:
    """One row per policy and seed; scores are drawn around `POLICIES`."""
    rows = []
    for number, (policy, (score, spread, slots, budget)) in enumerate(POLICIES.items()):
        for seed in range(seeds):
            generator = np.random.default_rng([number, seed, binary])
            identity = {
                "modality": "control",
                "env": "Hopper-v5",
                "interval": 48,
                "budget": budget,
                "statistics": policy.partition(":")[2] or None,
                "checkpoint_sha256": "c0ffee" * 8,
                "namm_sha256": "beef" * 12 if "namm" in policy else None,
            }
            cell = Cell(target, "Hopper-v5", policy, seed, identity)
            rows.append(_row(cell, generator, score, spread, slots, episodes, binary))
    return rows


def made_up_text_rows(target: str = "recall-llama/pairs", seeds: int = 2) -> list[Row]:
    """The same of language: prompts in place of episodes, and what was kept of one of them."""
    generator = np.random.default_rng(0)
    found = []
    for row in made_up_rows(target, seeds, episodes=6, binary=True):
        if row["policy"] == "native_window":
            continue
        prompts = [
            {"id": str(number), "score": trial["score"], "slots": trial["slots_mean"], "tokens": 384}
            for number, trial in enumerate(row["episodes"])
        ]
        pieces = ["<b>salt</b>", " & ", "</script>", " is", " lost"]
        trace = {"id": "0", "pieces": pieces, "question": "what is <i>lost</i>?", "answer": "salt", "expected": "salt"}
        kept = packed(generator.random((2, 2, len(pieces))) < 0.5)
        identity = {**row["identity"], "modality": "text", "model": "recall-llama"}
        told = {"prompts": prompts, "identity": identity, "score_name": "recall accuracy", "task": "pairs"}
        traced = {**trace, "layers": 2, "heads": 2, "kept": kept} if row["seed"] == 0 else None
        without = {key: value for key, value in row.items() if key not in ("episodes", "retention", "cue")}
        found.append({**without, **told, "key": f"{row['key'][:-1]}t", "trace": traced})
    return found


def made_up_curves(target: str = "hopper", seeds: int = 3, episodes: int = 4, binary: bool = False) -> list[Row]:
    """Rows of role "curve": every policy that forgets at six budgets, better the more it holds."""
    rows = []
    for number, policy in enumerate(("window", "random", "oldest", "namm:target")):
        best = POLICIES[policy][0]
        for budget in (6, 16, 40, 100, 250, 640):
            for seed in range(seeds):
                generator = np.random.default_rng([number, seed, budget, binary])
                identity = {"modality": "control", "interval": 48, "budget": budget}
                cell = Cell(target, "Hopper-v5", policy, seed, identity)
                score = best * (1 - 0.8 * np.exp(-budget / (20.0 + 30.0 * number)))
                row = _row(cell, generator, score, 4.0, budget + 23.0, episodes, binary)
                row["memory"]["role"] = "curve"
                rows.append({**row, "trace": None})
    return rows


def many_targets(number: int) -> list[Row]:
    """A large experiment: targets of different difficulty, every third one a success rate, with curves."""
    rows = []
    for index in range(number):
        name, binary = f"target-{index}", index % 3 == 2
        easier = 1.0 - 0.04 * (index % 9)
        for row in [*made_up_rows(name, 3, 6, binary), *made_up_curves(name, 3, 6, binary)]:
            for episode in row["episodes"] if not binary else ():
                episode["score"] *= easier
            rows.append(row)
    return rows


def _row(
    cell: Cell, generator: np.random.Generator, score: float, spread: float, slots: float, episodes: int, binary: bool
) -> Row:
    cue = _cue(episodes, 3, generator) if binary else None
    scores = generator.normal(score, spread, size=episodes)
    if binary:
        scores = 100.0 * (generator.random(episodes) < score / 100)
    asked = cell.policy not in ("native_window", "full")
    layers, bins = 3, 7
    samples = 20
    return {
        "schema": 1,
        "key": cell.key,
        "target": cell.target,
        "task": cell.task,
        "policy": cell.policy,
        "seed": cell.seed,
        "identity": dict(cell.identity),
        "score": float(scores.mean()),
        "score_name": "success rate" if binary else "normalised score",
        "metrics": {
            "return": float(scores.mean() * 32.5),
            "normalised_score": float(scores.mean()),
            "success": float(scores.mean() / 100) if binary else None,
            "episode_length": 990.0,
            "slots_mean": slots + cell.seed * 0.1,
            "slots_peak": slots * 1.4,
            "bytes_mean": slots * 3072,
            "bytes_peak": slots * 1.4 * 3072,
            "state_bytes_mean": slots * 300,
            "tokens_seen": 2970.0,
            "kept_fraction": slots / 1500,
            "kept_fraction_R": min(1.0, slots / 1600),
            "kept_fraction_s": min(1.0, slots / 1300),
            "kept_fraction_a": min(1.0, slots / 1700),
            "evicted": 2800.0 if asked else 0.0,
            "ms_per_env_step": 0.8,
            "env_steps": 990.0 * episodes,
        },
        "memory": {"asked_to_evict": asked, "recomputed": cell.policy == "native_window", "matched_to": None},
        "episodes": [
            {
                "reset_seed": 1000 * cell.seed + index,
                "return": float(value * 32.5),
                "normalised_score": float(value),
                "length": 990,
                "success": bool(value) if binary else None,
                "score": float(value),
                "slots_mean": slots,
                "slots_peak": slots * 1.4,
                **({"cue_held": float(held_when_asked(cue["episodes"][index]).any())} if cue else {}),
            }
            for index, value in enumerate(scores)
        ],
        "retention": {
            "age_edges": [0, 4, 16, 32, 64, 128, 256, 1000],
            "layers": generator.random((layers, bins)).round(4).tolist(),
            "heads": generator.random((layers, 2, bins)).round(4).tolist(),
            "steps": [10.0, 20.0, 30.0],
            "kinds": {kind: generator.random(3).round(3).tolist() for kind in "Rsa"},
            "ages": generator.random((3, bins)).round(3).tolist(),
        },
        "cue": cue,
        "trace": None
        if cell.seed
        else {
            "reset_seed": 0,
            "steps": list(range(0, samples * 16, 16)),
            "slots": [float(min(slots, 3 * step + 2)) for step in range(0, samples * 16, 16)],
            "survival_steps": list(range(0, samples * 16, 16)),
            "survival": (100 * np.tril(generator.random((samples, samples)))).astype(int).tolist(),
            "tokens_per_bin": 48,
            "actions": base64.b64encode(np.zeros((5, 3), dtype="<f4").tobytes()).decode(),
            "action_size": 3,
        },
        "versions": dict(VERSIONS),
        "seconds": 3.2,
        "finished": "2026-01-01T00:00:00+00:00",
    }


def _cue(episodes: int, layers: int, generator: np.random.Generator) -> dict:
    """Cues shown at step 5 and needed at step 50; each head loses its own after some time, or never."""
    told = []
    for _ in range(episodes):
        lost = [int(step) if step < 60 else None for step in generator.integers(1, 90, size=layers * 2)]
        told.append({"shown": [5], "asked": [50], "lost": [lost], "lost_R": [7], "lost_a": [None]})
    return {"layers": layers, "heads": 2, "episodes": told}


def with_scores(policy: str, scores, target: str = "hopper", seed: int = 0, **metrics) -> list[Row]:
    """One row of a policy with these episode scores."""
    template = made_up_rows(target, seeds=1)[0]
    asked = policy not in ("native_window", "full")
    episodes = [
        {**template["episodes"][0], "score": float(score), "reset_seed": 1000 * seed + number}
        for number, score in enumerate(scores)
    ]
    return [
        {
            **template,
            "policy": policy,
            "seed": seed,
            "score": float(np.mean(scores)),
            "metrics": template["metrics"] | {"evicted": 2800.0 if asked else 0.0} | metrics,
            "memory": {"asked_to_evict": asked, "recomputed": policy == "native_window", "matched_to": None},
            "episodes": episodes,
        }
    ]
