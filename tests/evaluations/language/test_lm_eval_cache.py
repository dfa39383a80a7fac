"""lm_eval's response cache belongs to one model under one policy; what cannot be scored is an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from evaluations.language import lm_eval_model
from namm.errors import ConfigError, DataError
from tests.evaluations.language.test_lm_eval_model import lm, model, requests, tokenizer

CONTEXT = "value " * 30 + "total holds count\n" + "list " * 20 + "total holds"
PAIRS = [(CONTEXT, " count"), (CONTEXT, " index"), ("lines " * 50, "x"), ("", "return value")]


def window(**arguments: Any) -> Any:
    return lm(policy="window", **{"budget": 16, "interval": 32, **arguments})


def scored(scorer: Any) -> list[Any]:
    return scorer.loglikelihood(requests(PAIRS))


def cached(scorer: Any, file: Path) -> Any:
    return CachingLM(scorer, str(file))


def texts(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, one, place, metadata=("by_hand", 0, 1)) for place, one in enumerate(arguments)]


def test_the_same_model_and_policy_are_answered_from_disk_without_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scored(cached(window(), tmp_path / "responses.db"))
    assert first == scored(window())
    monkeypatch.setattr(lm_eval_model, "read", None)  # would be called
    assert scored(cached(window(), tmp_path / "responses.db")) == first


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"policy": "full"}, "policy"),
        ({"budget": 24}, "budget"),
        ({"interval": 64}, "interval"),
        ({"max_length": 128}, "max_length"),
        ({"ntk_factor": 2.0}, "rope"),
        ({"add_bos_token": True}, "add_bos_token"),
    ],
)
def test_another_policy_or_model_does_not_get_its_responses(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    scored(cached(window(), tmp_path / "responses.db"))
    frequencies = {name: buffer.clone() for name, buffer in model().named_buffers()}
    try:
        other = lm(policy="full") if arguments.get("policy") == "full" else window(**arguments)
        with pytest.raises(ConfigError, match=rf"responses\.db.*{named}.*--use_cache"):
            cached(other, tmp_path / "responses.db")
    finally:
        for name, buffer in model().named_buffers():
            buffer.copy_(frequencies[name])


def test_other_weights_of_the_same_name_do_not_get_its_responses(tmp_path: Path) -> None:
    scored(cached(window(), tmp_path / "responses.db"))
    weight = next(model().parameters())
    before = weight[0, 0].item()
    try:
        with torch.no_grad():
            weight[0, 0] = before + 1.0
        with pytest.raises(ConfigError, match="weights"):
            cached(window(), tmp_path / "responses.db")
    finally:
        with torch.no_grad():
            weight[0, 0] = before


def test_responses_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    scored(cached(lm(HFLM), tmp_path / "responses.db"))
    with pytest.raises(ConfigError, match="4 responses of unknown origin"):
        cached(window(), tmp_path / "responses.db")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [{"policy": "window"}, {"policy": "random", "seed": 3}])
def test_a_killed_run_keeps_what_it_has_scored_and_goes_on_to_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any]
) -> None:
    asked = requests([(f"index {word} " * 40, " list") for word in ("value", "class", "total", "count", "string")])

    def made() -> Any:
        return lm(**policy, budget=16, interval=32, batch_size=1)

    whole = made().loglikelihood(asked)
    real, calls = lm_eval_model.read, []

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(lm_eval_model, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        cached(made(), tmp_path / "responses.db").loglikelihood(asked)
    calls.clear()
    monkeypatch.setattr(lm_eval_model, "read", lambda *a, **n: calls.append(a) or real(*a, **n))
    again = cached(made(), tmp_path / "responses.db").loglikelihood(asked)
    assert len(calls) == 2
    assert torch.tensor(again) == pytest.approx(torch.tensor(whole), abs=1e-4)


def test_a_killed_run_keeps_whole_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = texts("loglikelihood_rolling", [(f"index {word} " * 40,) for word in ("value", "class", "total")])
    real, calls = lm_eval_model.read, []

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(lm_eval_model, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        cached(window(batch_size=1), tmp_path / "responses.db").loglikelihood_rolling(asked)
    calls.clear()
    monkeypatch.setattr(lm_eval_model, "read", real)
    found = cached(window(batch_size=1), tmp_path / "responses.db")
    assert len(found.dbdict) == 1 + 2
    assert found.loglikelihood_rolling(asked) == window(batch_size=1).loglikelihood_rolling(asked)


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("loglikelihood", ("value list", ""), r"'value list'.*1 to 40 tokens to score.*found \d+ and 0"),
        ("loglikelihood", ("", ""), "no token"),
        ("loglikelihood", ("value", " list" * 60), r"'value'.*1 to 40 tokens.*and \d\d"),
        ("loglikelihood_rolling", ("",), "a text to score"),
        ("generate_until", ("value", {"until": ["\n"], "max_gen_toks": 40}), "answers of 40 tokens in a window of 40"),
        ("generate_until", ("", {"until": ["\n"], "max_gen_toks": 4}), "a prompt to answer"),
    ],
)
def test_a_request_that_cannot_be_scored_is_named(kind: str, asked: tuple[Any, ...], said: str) -> None:
    scorer = window(max_length=40)
    good = {"loglikelihood": ("value", " list"), "loglikelihood_rolling": ("value list",)}
    fine = good.get(kind, ("value", {"until": ["\n"], "max_gen_toks": 4}))
    with pytest.raises(DataError, match=said):
        getattr(scorer, kind)(texts(kind, [fine, asked]))


def test_the_longest_continuation_that_fits_is_scored_as_lm_eval_does() -> None:
    asked = [("value total", " list" * 40)]
    length = len(tokenizer()(asked[0][1], add_special_tokens=False)["input_ids"])
    mine, theirs = (
        found.loglikelihood(requests(asked))
        for found in (lm(policy="full", max_length=length), lm(HFLM, max_length=length))
    )
    assert mine[0] == pytest.approx(theirs[0], abs=1e-3)


def test_what_is_cut_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="lm_eval.models.namm"):
        window(max_length=40).loglikelihood(requests([("value " * 80, " list"), ("value", " list")]))
    assert "1 of 2 requests in by_hand are longer than the window of 40" in caplog.text


def test_a_chat_template_that_fails_is_an_error_of_ours() -> None:
    scorer, own = window(), tokenizer().chat_template
    turns = [{"role": "user", "content": "value"}]
    try:
        for template, said in ((None, "user"), ("{{ raise_exception('no users') }}", "no users")):
            tokenizer().chat_template = template
            with pytest.raises(ConfigError, match=said):
                scorer.apply_chat_template(turns)
    finally:
        tokenizer().chat_template = own
