"""RULER and the NIAH sweep: what is hidden, where, how long the prompts are, in whose words, and what is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluations.tasks.recall.corpus import TOKENIZER_FOLDER
from evaluations.tasks.text import TextItem, make_benchmark
from evaluations.tasks.text.haystacks import insert_at, open_haystack
from evaluations.tasks.text.ruler_contexts import NIAH
from namm.errors import ConfigError, DataError
from tests.evaluations.tasks.text.made_up_data import ruler_folder

BYTE_PAIRS = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER_FOLDER / "tokenizer.json"))


def character_tokenizer() -> Any:
    """One token a byte: the longest prompts that a tokenizer can make of a text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(sorted(alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_tokenizer() -> Any:
    """One token a word: the other extreme of tokenizers."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def items_of(task: str, length: int = 2048, samples: int = 3, tokenizer: Any = BYTE_PAIRS, **options: Any) -> Any:
    return make_benchmark("ruler", lengths=(length,), samples=samples, **options).items(task, tokenizer)


@pytest.mark.parametrize("tokenizer", [BYTE_PAIRS, word_tokenizer()], ids=["byte pairs", "words"])
@pytest.mark.parametrize("task", [*NIAH, "vt", "cwe", "fwe"])
def test_prompts_and_answers_fill_the_length_and_no_more(task: str, tokenizer: Any) -> None:
    for item in items_of(task, tokenizer=tokenizer):
        used = len(tokenizer(item.prompt)["input_ids"]) + item.max_new_tokens
        assert 0.9 * 2048 < used <= 2048


@pytest.mark.parametrize("task", [*NIAH, "vt", "cwe", "fwe"])
def test_a_tokenizer_of_single_bytes_gets_shorter_contexts(task: str) -> None:
    tokenizer = character_tokenizer()
    [item] = items_of(task, length=8192, samples=1, tokenizer=tokenizer)
    assert 0.85 * 8192 < len(item.prompt.encode()) + item.max_new_tokens <= 8192


@pytest.mark.parametrize(("task", "needles"), [("niah_single_1", 1), ("niah_multikey_1", 4), ("niah_multivalue", 4)])
def test_needles_are_hidden_in_the_context(task: str, needles: int) -> None:
    item = items_of(task, samples=1)[0]
    context = item.prompt[: item.context_end]
    assert context.count("Among the secret numbers, that of ") == needles
    assert all(answer in context for answer in item.answers)
    assert all(answer not in item.prompt[item.context_end :] for answer in item.answers)
    assert len(item.answers) == (4 if task == "niah_multivalue" else 1)


def test_many_keys_look_alike_and_one_is_asked_for() -> None:
    item = items_of("niah_multikey_3", samples=1)[0]
    keys = re.findall(r"that of (\S+) is", item.prompt)
    assert len(keys) > 10
    assert len(set(keys)) == len(keys)
    asked = re.search(r"does the text give for (\S+)\?", item.prompt)
    assert asked is not None
    assert f"that of {asked.group(1)} is {item.answers[0]}." in item.prompt


def test_four_keys_are_asked_for_at_once() -> None:
    item = items_of("niah_multiquery", samples=1)[0]
    assert len(item.answers) == 4
    assert ", and " in item.prompt[item.context_end :]


def test_a_chain_leads_from_the_value_to_every_variable() -> None:
    item = items_of("vt", samples=1)[0]
    context = item.prompt[: item.context_end]
    value = re.search(r"have the value (\d+) in the end", item.prompt[item.context_end :])
    assert value is not None
    held = {value.group(1)}
    for name, from_what in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", context):
        held |= {name} if from_what in held else set()
    assert set(item.answers) == held - {value.group(1)}
    assert len(item.answers) == 5


def test_the_most_frequent_words_are_asked_for() -> None:
    item = items_of("cwe", length=4096, samples=1, tokenizer=word_tokenizer())[0]
    listed = re.findall(r"\d+\. (\S+)", item.prompt[: item.context_end].rsplit("\n\n", 1)[-1])
    counts = {word: listed.count(word) for word in listed}
    assert {word for word, count in counts.items() if count == 30} == set(item.answers)
    assert len(item.answers) == 10
    assert {count for word, count in counts.items() if word not in item.answers} == {3}


def test_the_three_words_after_the_dots_are_asked_for() -> None:
    item = items_of("fwe", samples=1)[0]
    words = item.prompt[: item.context_end].split("'...'. ")[1].split()
    ranked = sorted(set(words), key=lambda word: -words.count(word))
    assert ranked[0] == "..."
    assert tuple(ranked[1:4]) == item.answers


def test_questions_come_with_the_documents_that_answer_them(tmp_path: Path) -> None:
    folder = ruler_folder(tmp_path)
    squad = items_of("qa_1", data=folder)
    assert [item.answers for item in squad] == [("green",), ("red",), ("blue",)]
    assert all("The boat Anna is painted green." in item.prompt and "Document 3:" in item.prompt for item in squad)
    hotpot = items_of("qa_2", data=folder)
    assert [item.answers for item in hotpot] == [("Kiel",)] * 2
    assert "Otto\nOtto lives in Kiel." in hotpot[0].prompt


def test_questions_name_what_they_are_answered_from_at_every_length_and_seed(tmp_path: Path) -> None:
    """The same questions are asked again there, and one paragraph is asked about several times: intervals must know."""
    folder = ruler_folder(tmp_path)
    squad = make_benchmark("ruler", data=folder, lengths=(1024, 2048), samples=3)
    first, other = (squad.items("qa_1", BYTE_PAIRS, seed=seed) for seed in (0, 1))
    assert [item.document for item in first[:3]] == [item.document for item in first[3:]]
    assert [item.document for item in first] == [item.document for item in other]
    assert all(item.document and item.document in item.prompt for item in first)
    assert len({item.document for item in items_of("qa_2", data=folder)}) == 2
    assert {item.document for item in items_of("niah_single_1")} == {None}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "squad.json:1: expected JSON"),
        ("[]", "expected a list of objects in 'data'"),
        ('{"data": [{"title": "x"}]}', "data[0]: expected a list of objects in 'paragraphs'"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": []}]}]}]}',
            "expected answers",
        ),
        ('{"data": []}', "expected questions with answers"),
    ],
)
def test_a_question_file_of_another_form_is_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "squad.json").write_text(content)
    with pytest.raises(DataError) as caught:
        items_of("qa_1", data=tmp_path)
    assert told in str(caught.value)


def test_missing_question_files_are_told_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"squad.json for qa_1, found no data; get it from https://rajpurkar"):
        items_of("qa_1")
    with pytest.raises(DataError, match=r"expected hotpotqa.json or hotpot_dev_distractor_v1.json in"):
        items_of("qa_2", data=tmp_path)


def test_the_wording_is_read_from_the_harness_or_from_ruler_s_scripts(tmp_path: Path) -> None:
    own, harness = (
        items_of("niah_multivalue", samples=1)[0],
        items_of("niah_multivalue", samples=1, templates="lm_eval")[0],
    )
    assert own.prompt != harness.prompt
    assert own.answers == harness.answers
    scripts = tmp_path / "scripts" / "data" / "synthetic"
    scripts.mkdir(parents=True)
    kinds = ("niah", "variable_tracking", "common_words_extraction", "freq_words_extraction", "qa")
    tasks = {
        kind: {"template": "Some text: {context} Some are: {query}?", "answer_prefix": " They are"} for kind in kinds
    }
    (scripts / "constants.py").write_text(f"TASKS = {tasks!r}\n")
    (scripts / "niah.py").write_text(
        "import nothing_of_this_name\nneedle = 'Needle of {key}: {value}, {type_needle_v}.'\n"
    )
    for task, ending in (("niah_single_1", "They is"), ("niah_multivalue", "They are")):
        benchmark = make_benchmark("ruler", lengths=(1024,), samples=1, templates=tmp_path)
        item = benchmark.items(task, BYTE_PAIRS)[0]
        assert item.prompt.endswith(ending)
        assert "Needle of " in item.prompt
        assert {"constants.py", "niah.py"} <= set(benchmark.protocol(task)["sha256"])
    (scripts / "constants.py").write_text("TASKS = {'niah': {}}\n")
    with pytest.raises(DataError, match="expected template and answer_prefix a task in TASKS"):
        items_of("vt", templates=tmp_path)


@pytest.mark.parametrize(("name", "task"), [("ruler", "vt"), ("niah", "sweep")])
def test_how_many_prompts_are_made_is_part_of_the_protocol(name: str, task: str) -> None:
    """Else rows of two prompts would be taken for rows of twenty."""
    few, many = (make_benchmark(name, lengths=(512,), samples=count).protocol(task) for count in (2, 20))
    assert few != many


def test_a_length_without_room_is_told() -> None:
    with pytest.raises(
        DataError, match=r"the shortest prompt of cwe at length 512, found 392; choose a greater length"
    ):
        items_of("cwe", length=512)
    with pytest.raises(DataError, match="expected five invented words or more"):
        items_of("fwe", length=220, tokenizer=word_tokenizer())


def test_a_tokenizer_that_counts_nothing_is_told() -> None:
    """Else the search for a context's size would never end."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(DataError, match="is this the model's tokenizer"):
        items_of("niah_single_1", length=256, tokenizer=tokenizer)


def test_texts_of_a_folder_are_the_haystack(tmp_path: Path) -> None:
    (tmp_path / "sea.txt").write_text("The harbour lies quiet today. " * 3 + "Short. " + "Boats come and go at night.")
    (tmp_path / "PaulGrahamEssays.json").write_text(json.dumps({"text": "Nobody writes essays about this town."}))
    haystack = open_haystack(tmp_path)
    assert set(haystack.sentences) == {
        "The harbour lies quiet today.", "Boats come and go at night.", "Nobody writes essays about this town.",
    }  # fmt: skip
    item = items_of("niah_single_2", length=1024, samples=1, data=tmp_path)[0]
    assert item.prompt.count("The harbour lies quiet today.") > 5
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xe4d")
    with pytest.raises(DataError, match=r"bad.txt:2: expected UTF-8, found the byte 0xe4"):
        open_haystack(tmp_path)


def test_needles_lie_where_they_are_asked_to() -> None:
    assert insert_at(["a", "b", "c", "d"], ["N", "M"], [0, 50]) == ["N", "a", "b", "M", "c", "d"]
    assert insert_at(["a", "b"], ["N"], [100]) == ["a", "b", "N"]


def test_the_sweep_lays_needles_over_lengths_and_depths() -> None:
    benchmark = make_benchmark("niah", lengths=(600, 1200), samples=2, depths=(0, 50, 100))
    items = benchmark.items("sweep", BYTE_PAIRS)
    assert len(items) == 2 * 3 * 2
    assert {tuple(item.groups.values()) for item in items} == {(n, d) for n in (600, 1200) for d in (0, 50, 100)}

    def place(item: TextItem) -> float:
        return item.prompt.index(item.answers[0]) / (item.context_end or 1)

    for item in items:
        assert abs(100 * place(item) - float(item.groups["depth"])) < 25
        assert len(BYTE_PAIRS(item.prompt)["input_ids"]) + item.max_new_tokens <= item.groups["tokens"]
    with pytest.raises(ConfigError, match="expected depths from 0 to 100 percent, found 101"):
        make_benchmark("niah", depths=(101,))
    with pytest.raises(ConfigError, match="niah has a needle of its own"):
        make_benchmark("niah", templates="somewhere")
