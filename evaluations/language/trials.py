"""What language is scored on: prompts, read under a memory and answered; several may be about one document."""

from __future__ import annotations

from evaluations.rows.trials import LOG_LIKELIHOOD, Measure, Trials

TRIALS = Trials(
    modality="text",
    word="prompt",
    key="prompts",
    identity="id",
    shared="prompts",
    sized="when the question comes",
    packages=("torch", "transformers"),
    code=("evaluations.tasks.text", "evaluations.tasks.recall", "evaluations.language"),
    scores=(LOG_LIKELIHOOD,),
    measures=(
        Measure("token_accuracy", "token acc. %", "scored tokens that are the model's first choice", "score", 100),
        Measure("prefill_seconds", "prefill s", "reading all prompts, updates included"),
        Measure("decode_seconds", "decode s", "answering all prompts, updates included"),
        Measure("policy_seconds", "updates s", "of both, what the policy's updates took"),
    ),
    board="evaluations.language.board:BOARD",
)
