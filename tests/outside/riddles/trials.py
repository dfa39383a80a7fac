"""What lookup machines are scored on; registered as an entry point of the group `namm.trials`."""

from __future__ import annotations

from evaluations.rows.trials import Measure, Trials

TRIALS = Trials(
    modality="riddles",
    word="riddle",
    key="riddles",
    identity="number",
    shared="riddles",
    sized="when the riddle is asked",
    packages=("torch",),
    code=("riddles.model", "riddles.experiment"),
    document="story",
    measures=(Measure("key_held", "key held %", "riddles whose key was held when they were asked", "score", 100),),
    board="riddles.experiment:BOARD",
)
