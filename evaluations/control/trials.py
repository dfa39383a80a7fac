"""What control is scored on: episodes in a simulator, played on reset seeds that all policies share."""

from __future__ import annotations

from evaluations.rows.policy_names import NATIVE
from evaluations.rows.trials import Measure, Remark, Row, Score, Trials
from evaluations.tasks.control.comparability import Comparability


def caveat(row: Row) -> str:
    """The verdict on its scores, where they must not stand beside D4RL's."""
    verdict = _verdict(row)
    return verdict.verdict if verdict is not None and not verdict.comparable else ""


def remarks(row: Row) -> list[Remark]:
    """Whether normalised scores may stand beside D4RL's, and why; and that episodes were cut."""
    verdict = _verdict(row)
    if verdict is None:
        return []
    found: list[Remark] = [
        ("note" if verdict.comparable else "warning", f"Scores x100 on {row['task']} are {verdict.sentence}.")
    ]
    cut = row["identity"].get("max_steps")
    if cut is not None:
        found.append(("warning", f"Episodes were cut after {cut} steps: scores x100 are made for whole ones."))
    return found


def _verdict(row: Row) -> Comparability | None:
    found = row.get("comparability")
    return None if found is None else Comparability(**found)


TRIALS = Trials(
    modality="control",
    word="episode",
    key="episodes",
    identity="reset_seed",
    shared="reset seeds",
    sized="over an episode",
    packages=("gymnasium", "mujoco"),
    code=(
        "evaluations.tasks.control", "evaluations.control.cells", "evaluations.control.plan",
        "evaluations.control.holdings", "evaluations.control.retention", "evaluations.control.cues",
        "evaluations.control.sizes", "evaluations.analysis.survival",
    ),
    time="environment step",
    scores=(
        Score("normalised score", "score x100", "normalised score: 0 is a random policy, 100 an expert"),
        Score("success rate", "success %", "episodes that succeeded, Wilson interval", rate=True, value="success"),
        Score("return", "return", "undiscounted sum of rewards", percentage=False, digits=2, value="return"),
    ),
    measures=(
        Measure("episode_length", "length", "environment steps of an episode", "score", digits=0),
        Measure("kept_fraction_R", "R %", "the same for return-to-go tokens", scale=100),
        Measure("kept_fraction_s", "s %", "the same for state tokens", scale=100),
        Measure("kept_fraction_a", "a %", "the same for action tokens", scale=100),
        Measure("ms_per_env_step", "ms/step", "model, memory and policy per environment step", digits=2),
    ),
    own_length=True,
    native=NATIVE,
    caveat=caveat,
    remarks=remarks,
    board="evaluations.control.board:BOARD",
)  # fmt: skip
