"""The words of the small video model: one token a word, shared by its language model and its CLIP text tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES
from evaluations.tasks.video.questions import CHOICES, plural

PAD, BEGIN, END, UNKNOWN, IMAGE, VIDEO = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>")

_ASKED = """what color were the shapes ? what shape came right after before first number flashed how many there user
assistant : , . a an and in on of is nothing"""
_EASY_VQA = """what color is the shape does image contain not a present there no in of yes circle rectangle triangle
red green blue yellow brown teal gray black ninth tenth second third fourth fifth sixth seventh eighth first"""


def words() -> tuple[str, ...]:
    """Every token, in the order of their ids."""
    answers = [word for choices in CHOICES.values() for word in choices]
    many = [plural(shape) for shape in SHAPES]
    found = [*_ASKED.split(), *COLOURS, *SHAPES, *many, *NUMBERS, *answers, *_EASY_VQA.split()]
    return (*SPECIAL, *dict.fromkeys(found))


def make_tokenizer(*, for_clip: bool = False) -> Any:
    """A Hugging Face tokenizer of these words, in lower case.

    Args:
        for_clip: texts end with `</s>`, where CLIP's text tower is read, instead of beginning with `<s>`.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[?:,.]"), "isolated")]
    )
    single, mark = (f"$A {END}", END) if for_clip else (f"{BEGIN} $A", BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(mark, ids[mark])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right" if for_clip else "left",  # or generate() would go on from the padding
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens({"additional_special_tokens": [IMAGE, VIDEO]})
    return fast


def save_clip_tokenizer(folder: Path) -> None:
    """Writes the tokenizer of the text tower where open_clip's `local-dir:` looks for it."""
    make_tokenizer(for_clip=True).save_pretrained(folder)
