"""What was kept of one prompt, token by token, layer by layer and head by head, as a row tells it.

trace   id, pieces (the context, a string a token), question and expected and answer (text), layers, heads,
        kept (bits [layer, head, token], packed, deflated, base64)
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from evaluations.language.exams import Exam, ExamPrompts
from evaluations.rows.file import Row
from evaluations.tasks.recall.corpus import default_vocabulary
from modalities.language.reading import Answer
from modalities.pretrained.tokenizer import text_of

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of a part of a character."""
LONGEST_PART = 4
"""Tokens that may share one character."""


def traced_place(asked: ExamPrompts, most: int) -> int | None:
    """The first prompt whose context is short enough to be shown; None where none is."""
    fit = (members[0] for members in asked.members if len(asked.prompts[members[0]].context) <= most)
    return next(fit, None)


def told_trace(
    exam: Exam,
    asked: ExamPrompts,
    place: int,
    answers: Mapping[int, Answer],
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Any]:
    """The trace of a prompt that was read under watch.

    Args:
        exam: That it belongs to.
        asked: All its prompts.
        place: The prompt.
        answers: By place.
        tokenizer: Of the model; None for the shipped vocabulary.
    """
    prompt, answer = asked.prompts[place], answers[place]
    item = next(item for item, members in enumerate(asked.members) if place in members)
    decode = decoder(tokenizer)
    kept = np.zeros((len(answer.kept or ()), len((answer.kept or ((),))[0]), len(prompt.context)), dtype=bool)
    for layer, heads in enumerate(answer.kept or ()):
        for head, positions in enumerate(heads):
            kept[layer, head, list(positions)] = True
    return {
        "id": asked.ids[item],
        "pieces": pieces(prompt.context, decode),
        "question": decode(prompt.question),
        "expected": asked.expected[item] if asked.expected else "",
        "answer": exam.answer_text([answers[member] for member in asked.members[item]]),
        "layers": kept.shape[0],
        "heads": kept.shape[1],
        "kept": packed(kept),
    }


def packed(kept: np.ndarray) -> str:
    """Bits as text."""
    return base64.b64encode(zlib.compress(np.packbits(kept).tobytes(), 9)).decode()


def kept_of(row: Row) -> np.ndarray:
    """Which tokens each layer and head held, bool [layers, heads, tokens]."""
    trace = row["trace"]
    shape = (trace["layers"], trace["heads"], len(trace["pieces"]))
    bits = np.frombuffer(zlib.decompress(base64.b64decode(trace["kept"])), dtype=np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape)


def pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each token; where several make one character, it is the last one's and the others have none."""
    found: list[str] = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = decode(waiting)
        if text.endswith(UNREADABLE) and len(waiting) < LONGEST_PART:
            found.append("")
            continue
        found.append(text)
        waiting = []
    if waiting:
        found[-1] = decode(waiting)
    return found


def decoder(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[Sequence[int]], str]:
    """Ids to text, special tokens by name."""
    if tokenizer is None:
        shipped = default_vocabulary().tokenizer
        return lambda ids: shipped.decode(list(ids), skip_special_tokens=False)
    return lambda ids: text_of(tokenizer, ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
