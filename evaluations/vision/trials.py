"""What video is scored on: questions about clips, asked when all frames have passed; several are about one clip."""

from __future__ import annotations

from evaluations.rows.file import Row
from evaluations.rows.trials import Measure, Remark, Score, Trials

ACCURACY = Score("accuracy", "accuracy %", "questions answered rightly; an answer that cannot be read is wrong")


def remarks(row: Row) -> list[Remark]:
    """Questions that could not be asked, and prompts that the model was not made for, are told beside every score."""
    told: list[Remark] = []
    failed = row.get("failed") or []
    if failed:
        first = f"{failed[0]['id']}: {failed[0]['error']}"
        told.append(("warning", f"{len(failed)} questions could not be asked and are not scored, such as {first}"))
    if row.get("past_window"):
        told.append(("warning", row["past_window"]))
    return told


def caveat(row: Row) -> str:
    """How many questions are left out."""
    failed = row.get("failed") or []
    return f"{len(failed)} not asked" if failed else ""


TRIALS = Trials(
    modality="video",
    word="question",
    key="questions",
    identity="id",
    shared="questions",
    sized="when the question comes",
    packages=("torch", "transformers", "open_clip_torch", "av"),
    code=("evaluations.tasks.video", "evaluations.vision"),
    document="clip",
    scores=(ACCURACY,),
    measures=(
        Measure("answered", "readable %", "answers that name something that could be right", "score", 100),
        Measure(
            "evidence_kept", "evidence %", "slots of the frames that show the answer, of all they had", scale=100
        ),
        Measure("kept_by_relevance", "ρ relevance", "rank correlation of a frame's slots and CLIP's cosine to the "
                "question, mean over questions", digits=2),
        Measure("kept_by_novelty", "ρ novelty", "the same with one minus the cosine to the frame before", digits=2),
        Measure("vision_seconds", "vision s", "encoding all clips once; policies share it"),
        Measure("prefill_seconds", "prefill s", "reading all clips and questions, updates included"),
        Measure("decode_seconds", "decode s", "answering all questions, updates included"),
        Measure("policy_seconds", "updates s", "of both, what the policy's updates took"),
    ),
    caveat=caveat,
    remarks=remarks,
    board="evaluations.vision.board:BOARD",
)  # fmt: skip
