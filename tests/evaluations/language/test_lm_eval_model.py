"""lm_eval's tasks on an evicting model: equal to lm_eval's own model while nothing is evicted, different when it is."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, T5Config, T5ForConditionalGeneration

from evaluations.experiment.names import policy_of
from evaluations.language import lm_eval_command
from evaluations.language.lm_eval_model import NammLM
from modalities import attach
from modalities.huggingface.attach import cache_of
from namm.errors import AttachError, ConfigError, UnknownNameError
from tests.namm.test_compat import trainer_content

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "checkpoints" / "text" / "recall-llama"
WORDS = ("return", "import", "class", "value", "list", "string", "index", "count", "total", "lines")


@cache
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL).eval()


@cache
def tokenizer() -> Any:
    found = AutoTokenizer.from_pretrained(MODEL)
    found.eos_token = found.pad_token  # lm_eval's own model cannot do without one
    return found


def lm(kind: type[HFLM] = NammLM, batch_size: int = 3, **arguments: Any) -> Any:
    return kind(pretrained=model(), tokenizer=tokenizer(), batch_size=batch_size, device="cpu", **arguments)


def tasks(folder: Path) -> list[dict[str, Any]]:
    """One task of each kind of request, on a file of made-up documents."""
    draw = random.Random(3)
    documents = []
    for number in range(4):
        words = " ".join(draw.choice(WORDS) for _ in range(30 + 30 * number))
        documents.append(
            {
                "context": f"the key holds {draw.choice(WORDS)}\n{words}\nthe key holds",
                "choices": [f" {word}" for word in draw.sample(WORDS, 3)],
                "answer": number % 3,
                "text": f"def f(x):\n    return {words}\n",
            }
        )
    (folder / "documents.json").write_text("\n".join(map(json.dumps, documents)))
    source = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "documents.json")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "target_delimiter": "",
    }
    choice = {
        "task": "made_up_choice", "output_type": "multiple_choice", "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    answer = {
        "task": "made_up_answer", "output_type": "generate_until", "doc_to_text": "{{context}}",
        "doc_to_target": "{{choices[0]}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    whole = {
        "task": "made_up_text", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }  # fmt: skip
    return [{**source, **task} for task in (choice, answer, whole)]


def evaluated(which: Any, folder: Path) -> dict[str, Any]:
    """lm_eval's evaluation, and beside its results what the model says of itself, as its command writes them."""
    found = evaluate(which, {task["task"]: ConfigurableTask(config=task) for task in tasks(folder)}, log_samples=True)
    return {**found, "config": which.get_model_info()}


def responses(results: dict[str, Any], task: str) -> list[Any]:
    return [sample["resps"] for sample in results["samples"][task]]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(lm(policy="full"), tmp_path_factory.mktemp("full"))


def test_without_eviction_every_response_is_that_of_lm_evals_own_model(full: dict[str, Any], tmp_path: Path) -> None:
    stock = evaluated(lm(HFLM), tmp_path)
    assert responses(full, "made_up_answer") == responses(stock, "made_up_answer")
    for task in ("made_up_choice", "made_up_text"):
        mine, theirs = (torch.tensor(responses(found, task), dtype=torch.float64) for found in (full, stock))
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-5)
    for task, scores in stock["results"].items():
        for name, value in scores.items():
            if isinstance(value, float):
                assert full["results"][task][name] == pytest.approx(value, rel=1e-5)


def test_responses_change_with_what_is_evicted_and_results_say_how_much_that_was(
    full: dict[str, Any], tmp_path: Path
) -> None:
    evicting = evaluated(lm(policy="window", budget=16, interval=32), tmp_path)
    for task in ("made_up_choice", "made_up_answer", "made_up_text"):
        assert responses(evicting, task) != responses(full, task)
        kept = evicting["config"]["namm"]["kept"][task]
        assert 0.05 < kept["kept_fraction"] < 0.7
        assert 16 <= kept["slots"] < 16 + 32
        assert full["config"]["namm"]["kept"][task]["kept_fraction"] == 1.0
    assert evicting["config"]["namm"]["kept"]["made_up_choice"]["requests"] == 12
    assert evicting["config"]["namm"]["budget"] == 16
    assert json.loads(json.dumps(evicting["config"]["namm"])) == evicting["config"]["namm"]


def requests(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, place, metadata=("by_hand", 0, 1)) for place, pair in enumerate(pairs)]


def test_a_score_is_that_of_the_continuation_read_token_by_token_after_its_context() -> None:
    """Whatever shares the batch: the obvious loop, one request and one token at a time."""
    context = "value " * 30 + "total holds count\n" + "list " * 20 + "total holds"
    pairs = [(context, " count"), (context, " index of"), ("lines ", "x"), ("", "return value")]
    scorer = lm(policy="namm:sequence", interval=32, batch_size=4)
    found = scorer.loglikelihood(requests(pairs), disable_tqdm=True)
    for (before, after), (total, greedy) in zip(pairs, found, strict=True):
        begin = [scorer.prefix_token_id], scorer.tok_encode(after)
        start, end = scorer._encode_pair(before, after) if before else begin
        expected, first_choices, cache = 0.0, True, None
        with attach(model(), scorer.policy), torch.inference_mode():
            for place, (token, following) in enumerate(itertools.pairwise(start + end)):
                out = model()(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
                cache = cache_of(out)
                if place + 1 >= len(start):
                    likelihoods = out.logits[0, -1].log_softmax(-1)
                    expected += float(likelihoods[following])
                    first_choices &= bool(likelihoods.argmax() == following)
        assert total == pytest.approx(expected, abs=1e-3)
        assert greedy == first_choices
    assert scorer.kept["by_hand"].requests == len(pairs)


def test_contexts_that_requests_share_are_read_once() -> None:
    scorer = lm(policy="full", batch_size=8)
    read: list[int] = []
    hook = model().register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    try:
        scorer.loglikelihood(requests([("value " * 100, f" {word}") for word in WORDS[:6]]), disable_tqdm=True)
    finally:
        hook.remove()
    assert sum(read) < 2 * 101 + 6 * 8


def test_a_policy_that_judges_the_prompt_once_judges_each_whole_context() -> None:
    """Not the part that requests share, nor the first chunk."""
    scorer = lm(policy="snapkv", budget=40, schedule="prompt", batch_size=4)
    common = "value " * 90
    pairs = [(common + "total list", " count"), (common + "index lines total", " class")]
    together = scorer.loglikelihood(requests(pairs), disable_tqdm=True)
    alone = [scorer.loglikelihood(requests([pair]), disable_tqdm=True)[0] for pair in pairs]
    for mine, expected in zip(together, alone, strict=True):
        assert mine == pytest.approx(expected, abs=1e-3)
    asked = len(scorer._encode_pair(*pairs[0])[1])
    assert scorer.kept["by_hand"].slots / scorer.kept["by_hand"].requests == pytest.approx(40 + asked, abs=1)


def test_a_policy_that_evicts_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    idle = lm(policy="window", budget=64, interval=512)
    idle.loglikelihood(requests([("value " * 50, " list")]), disable_tqdm=True)
    with caplog.at_level("WARNING", logger="lm_eval.models.namm"):
        facts = idle.get_model_info()["namm"]
    assert facts["kept"]["by_hand"]["kept_fraction"] == 1.0
    assert "evicted nothing in by_hand" in caplog.text


def test_a_context_that_does_not_fit_is_cut_on_the_left_as_lm_eval_does() -> None:
    pairs = [("value " * 80 + "total", " list count"), ("index", " value")]
    mine, theirs = (
        found.loglikelihood(requests(pairs), disable_tqdm=True)
        for found in (lm(policy="full", max_length=40), lm(HFLM, max_length=40))
    )
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), atol=1e-3, rtol=1e-4)


def test_arguments_become_a_policy_and_the_rest_is_lm_evals(tmp_path: Path) -> None:
    policy, rest = policy_of("sink_window", None, {"budget": 40, "protected_first": 2, "dtype": "bfloat16"})
    assert (policy.selection.budget, policy.selection.protected_first, rest) == (40, 2, {"dtype": "bfloat16"})
    released, _ = policy_of("namm:released", None, {})
    assert (released.selection.interval, released.eager_chunk) == (512, 128)
    own, _ = policy_of("namm:sequence", None, {"budget": 32})
    assert own.describe()["statistics"] == "sequence"
    assert own.selection.interval == policy_of("namm", None, {})[0].namm.config.interval
    torch.save(trainer_content(), tmp_path / "ckpt.pt")
    assert policy_of("namm", tmp_path / "ckpt.pt", {})[0].namm.flat.shape == (4172,)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"policy": "windw", "budget": 8}, UnknownNameError, "Did you mean 'window'"),
        ({"policy": "window"}, ConfigError, "needs a budget"),
        ({"policy": "window", "bugdet": 8}, ConfigError, "Did you mean 'budget'"),
        ({"policy": "window", "budget": 8, "namm": "somewhere"}, ConfigError, "goes with policy=namm"),
        ({"policy": "namm", "statistics": "target"}, ConfigError, "calibrate"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        lm(**arguments)


def test_an_encoder_decoder_is_refused() -> None:
    sizes = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "decoder_start_token_id": 0}
    other = T5ForConditionalGeneration(T5Config(vocab_size=838, **sizes))
    with pytest.raises(AttachError, match="seq2seq"):
        NammLM(pretrained=other, tokenizer=tokenizer(), policy="full", device="cpu", backend="seq2seq")


def test_lm_eval_is_told_where_the_model_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["lm_eval.models"]["namm"].partition(":")
    assert getattr(importlib.import_module(module), name) is NammLM
    module, _, name = project["scripts"]["namm-lm-eval"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def words(folder: Path, arguments: str) -> list[str]:
    """The command line of tasks that lie in a folder as lm_eval's documentation wants them."""
    for task in tasks(folder):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return [
        "namm-lm-eval", "--model", "namm", "--device", "cpu",
        "--model_args", f"pretrained={MODEL},{arguments}", "--batch_size", "4", "--limit", "3",
        "--include_path", str(folder), "--tasks", "made_up_choice,made_up_answer,made_up_text",
        "--output_path", str(folder / "out"),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_is_lm_evals_with_the_model_in_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evaluations.language.lm_eval_command"]
    done = subprocess.run(
        [*command, *words(tmp_path, "policy=namm,interval=64,budget=24")[1:]],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "made_up_choice" in done.stdout
    (results,) = (tmp_path / "out").rglob("*.json")
    found = json.loads(results.read_text())["config"]["namm"]
    assert found["budget"] == 24
    assert set(found["kept"]) == {"made_up_choice", "made_up_answer", "made_up_text"}
    assert all(0 < kept["kept_fraction"] < 1 for kept in found["kept"].values())


@pytest.mark.slow
def test_a_mistake_on_its_command_line_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", words(tmp_path, "policy=nam"))
    assert lm_eval_command.main() == 2
    told = capsys.readouterr().err
    assert "error: Unknown policy 'nam'" in told
    assert "Traceback" not in told
