"""What a model reads of a prompt never exceeds the room there is, whatever is put around it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from evaluations.tasks.text.fitted import Wrapping, fitted
from namm.errors import ConfigError, DataError

LONG_SYSTEM = "You are a careful sailor and read every line of the log. " * 3
TEMPLATES = {
    "plain": "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}",
    "system": LONG_SYSTEM + "{% for m in messages %}\n[{{ m.content | trim }}]\n{% endfor %}Answer now:",
}  # fmt: skip


def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    found = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER_FOLDER / "tokenizer.json"))
    found.chat_template = template
    return found


def plain(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("limit", [180, 255, 256])
def test_the_template_is_measured_before_anything_is_cut(name: str, limit: int) -> None:
    """Cut to the limit first and wrapped then, 311 tokens stood in a window of 256."""
    own = tokenizer(TEMPLATES[name])
    prompt = "First say hello.\n" + "The boats lie in the harbour.\n" * 60 + "Which colour has the boat?"
    found = fitted(prompt, None, own, limit, Wrapping(own))
    assert found.was_cut
    assert found.tokens > limit
    assert limit - 4 <= len(found.ids) <= limit
    text = own.decode(found.ids)
    assert "First say hello" in text
    assert "has the boat?" in text
    assert text.endswith(own.decode(plain("<a>" if name == "plain" else "Answer now:")))


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_fits_alone_but_not_wrapped_is_cut_too(name: str) -> None:
    own, prompt = tokenizer(TEMPLATES[name]), "The boats lie in the harbour.\n" * 8
    limit = len(plain(prompt)) + 2
    assert len(fitted(prompt, None, own, limit, Wrapping(own)).ids) <= limit
    assert not fitted(prompt, None, own, limit).was_cut


def test_the_token_that_begins_a_text_is_counted_and_a_template_that_writes_it_does_not_double_it() -> None:
    own = tokenizer("<s>{{ messages[0].content }}")
    own.add_special_tokens({"bos_token": "<s>"})
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.bos_token_id)]
    )
    prompt = "The boats lie in the harbour.\n" * 60
    for wrapping in (None, Wrapping(own)):
        found = fitted(prompt, None, own, 100, wrapping)
        assert 96 <= len(found.ids) <= 100
        assert found.ids.count(own.bos_token_id) == 1
        assert found.ids[0] == own.bos_token_id


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.text("ab \n<>\u00e9\u4e2d\U0001f6a2", min_size=2, max_size=120),
    limit=st.integers(24, 80),
    wrap=st.booleans(),
)
def test_no_prompt_exceeds_its_room(prompt: str, limit: int, wrap: bool) -> None:
    """Also where a cut falls into a character of several tokens, so that decoding and encoding again makes more."""
    own = tokenizer(TEMPLATES["plain"])
    found = fitted("a " + prompt, None, own, limit, Wrapping(own) if wrap else None)
    assert 2 <= len(found.ids) <= limit
    assert found.was_cut == (found.tokens > limit)


def test_the_end_of_the_template_belongs_to_the_question() -> None:
    own = tokenizer(TEMPLATES["system"])
    context, question = "The boats lie in the harbour.\n" * 40, "Which colour has the boat?"
    found = fitted(context + question, len(context), own, 200, Wrapping(own))
    asked = own.decode(found.ids[-found.question_tokens :])
    assert asked.startswith(own.decode(plain(question))[:8])
    assert "Answer now" in asked
    assert "harbour" not in asked


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only systems') }}", "only systems"),
        ("{% for m in messages %}{{ m.content[0]['text'] }}{% endfor %}", "expected"),
        ("Hello.", "without"),
        ("{{ messages[0].content | upper }}", "without"),
        ("{% if %}", "expected"),
    ],
)
def test_a_template_that_fails_or_loses_the_prompt_is_refused(template: str, said: str) -> None:
    own = tokenizer(template)
    with pytest.raises(DataError, match=said):
        fitted("Which boat?", None, own, 100, Wrapping(own))


def test_a_template_longer_than_the_window_says_so() -> None:
    own = tokenizer(TEMPLATES["system"])
    with pytest.raises(ConfigError, match="larger --window"):
        fitted("The boats. " * 40, None, own, 40, Wrapping(own))
