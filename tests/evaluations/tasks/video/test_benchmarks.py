"""LongVideoBench, MLVU and Video-MME read from folders as their makers lay them out; answers are never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluations.tasks.video.base import VideoOptions
from evaluations.tasks.video.choices import chosen_option, worded
from evaluations.tasks.video.mlvu import FILES
from evaluations.tasks.video.subtitles import Subtitle, interleaved, read_longvideobench, read_srt
from evaluations.tasks.video.tasks import make_task, task_names
from namm.errors import ConfigError, DataError, UnknownNameError
from tests.evaluations.tasks.video.made_up_folders import (
    longvideobench_folder,
    longvideobench_row,
    mlvu_folder,
    video_mme_folder,
)

BOATS = ("a red boat", "A blue boat", "two boats", "none of these")


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("B", "B"), ("b", None), ("(B)", "B"), ("B.", "B"), ("B. A blue boat", "B"), ("B) anything", "B"),
        ("**C**", "C"), ("The answer is (D).", "D"), ("Answer: A", "A"), ("I think option C", "C"),
        ("C two boats", "C"), ("C is what I see", None), ("A man walks by", None), ("A", "A"),
        ("two boats", "C"), ("Two boats.", "C"), ("boats", None), ("E", None), ("The answer is E", None),
        ("the answer is B or the answer is C", None), ("The answer is a boat", None), ("the answer is A boat", None),
        ("", None), ("  ", None), ("I cannot tell", None),
    ],
)  # fmt: skip
def test_an_answer_that_names_no_option_is_no_answer(said: str, option: str | None) -> None:
    assert chosen_option(said, BOATS) == option


def test_options_with_the_same_words_are_told_by_their_letters_only() -> None:
    assert chosen_option("rain", ("rain", "Rain.")) is None
    assert chosen_option("B", ("rain", "Rain.")) == "B"


def test_a_wording_is_filled_in_once() -> None:
    asked = worded("What do {options} mean?", ("one", "{question}", "three"), "Q: {question}\n{options}\nLetter:")
    assert asked == "Q: What do {options} mean?\nA. one\nB. {question}\nC. three\nLetter:"


def test_lines_stand_where_they_are_said() -> None:
    """Behind the frames before their middle, only where a frame was taken meanwhile; short ones count as a second."""
    times = [0.0, 1.0, 2.0, 6.0]
    lines = [Subtitle(3.0, 4.5, "between frames"), Subtitle(1.8, 1.9, "short"), Subtitle(0.5, 1.5, "one")]
    assert interleaved(times, lines) == [0, 1, "one", "short", 2, 3]
    assert interleaved(times, []) == [0, 1, 2, 3]
    assert interleaved([0.0], [Subtitle(0.4, 0.45, "near")]) == [0, "near"]


def test_longvideobench_is_read_as_it_lies(tmp_path: Path) -> None:
    folder = longvideobench_folder(tmp_path)
    task = make_task("longvideobench", VideoOptions(data=folder, subtitles=True))
    items = task.items()
    assert [len(item.options) for item in items] == [3, 4, 5, 3]
    assert [item.answer for item in items] == ["A", "B", "C", "A"]
    assert [item.clip for item in items] == ["v0", "v0", "v1", "v1"]
    assert items[0].question == (
        "What is seen when the bell rings, number 0?\nA. a red boat\nB. A blue boat\nC. two boats\n"
        "Reply with the letter of the option that is right."
    )
    assert items[0].evidence == (2, 3)
    assert items[0].groups["duration_group"] == "15"
    assert all(item.video is not None and item.video.exists() for item in items)
    assert items[0].subtitles is not None
    assert items[2].subtitles is not None
    assert items[0].subtitles() == [Subtitle(1.0, 2.5, "the bell rings"), Subtitle(6.0, 8.0, "it is quiet")]
    assert items[2].subtitles() == [Subtitle(1.0, 2.5, "the bell rings")]
    assert make_task("longvideobench", VideoOptions(data=folder)).items()[0].subtitles is None
    assert len(task.items(limit=3)) == 3


def test_what_decides_a_score_is_told(tmp_path: Path) -> None:
    """The wording, the subtitles, the frames and the data."""
    folder = longvideobench_folder(tmp_path / "data")
    wording = tmp_path / "theirs.txt"
    wording.write_text("{question}\n{options}\nBest option: (", encoding="utf-8")
    plain = make_task("longvideobench", VideoOptions(data=folder)).protocol()
    theirs = make_task("longvideobench", VideoOptions(data=folder, template=wording, frames=48)).protocol()
    assert plain["wording"] == "this project's"
    assert plain["subtitles"] == "none"
    assert (plain["frames"], theirs["frames"]) == (32, 48)
    assert theirs["wording"] == "theirs.txt"
    (folder / "lvb_val.json").write_text(json.dumps([longvideobench_row(5)]), encoding="utf-8")
    assert make_task("longvideobench", VideoOptions(data=folder)).protocol()["data_sha256"] != plain["data_sha256"]
    wording.write_text("{question}", encoding="utf-8")
    with pytest.raises(DataError, match=r"found no \{options\}"):
        make_task("longvideobench", VideoOptions(data=folder, template=wording))


def test_mlvu_has_seven_tasks_with_options(tmp_path: Path) -> None:
    folder = mlvu_folder(tmp_path / "MLVU").parent  # also one folder above
    names = task_names(["mlvu"])
    assert names == tuple(f"mlvu/{kind}" for kind in FILES)
    for name in names:
        items = make_task(name, VideoOptions(data=folder)).items()
        assert [item.answer for item in items] == ["B", "B"]
        assert [item.id for item in items] == [f"{name[5:]}-1", f"{name[5:]}-2"]
        assert len(items[0].options) == (6 if name == "mlvu/order" else 4)
        assert all(item.video is not None and item.video.exists() for item in items)


def test_mlvu_answers_in_free_words_need_a_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need a judge"):
        make_task(*task_names(["mlvu/summary"]), VideoOptions(data=tmp_path))
    with pytest.raises(UnknownNameError, match="needle"):
        task_names(["mlvu/needel"])
    with pytest.raises(UnknownNameError, match="longvideobench"):
        task_names(["longvideobenhc"])


def test_video_mme_is_read_as_it_lies(tmp_path: Path) -> None:
    items = make_task("video-mme", VideoOptions(data=video_mme_folder(tmp_path), subtitles=True)).items()
    assert [item.answer for item in items] == ["B", "D", "B", "D"]
    assert items[0].options == ("one.", "two.", "three.", "four.")
    assert items[0].question.splitlines()[1] == "A. one."
    assert items[0].subtitles is not None
    assert items[2].subtitles is not None
    assert list(items[0].subtitles()) == [Subtitle(0.5, 1.5, "Look there!"), Subtitle(2.0, 2.25, "A boat.")]
    assert list(items[2].subtitles()) == []


def test_broken_files_are_told_with_their_place(tmp_path: Path) -> None:
    rows = [longvideobench_row(0), longvideobench_row(1, correct_choice=9), longvideobench_row(2, position="no")]
    folder = longvideobench_folder(tmp_path, rows, videos=0)
    with pytest.raises(DataError, match=r"row 2: expected a correct_choice below 4(.|\n)*row 3: expected a list"):
        make_task("longvideobench", VideoOptions(data=folder)).items()
    (folder / "lvb_val.json").unlink()
    with pytest.raises(DataError, match=r"expected the questions at .*lvb_val.json"):
        make_task("longvideobench", VideoOptions(data=folder)).items()
    with pytest.raises(ConfigError, match="--data FOLDER"):
        make_task("longvideobench", VideoOptions())
    with pytest.raises(DataError, match="subtitles"):
        read_longvideobench(folder / "subtitles" / "none.json", 0.0, 1.0)
    bad = folder / "bad.json"
    bad.write_text('[{"timestamp": [1, "x"], "text": "hm"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad.json:row 1: expected timestamp and text"):
        read_longvideobench(bad, 0.0, 1.0)
    with pytest.raises(DataError, match=r"is it a .srt file"):
        read_srt(bad)


def test_drawn_tasks_ask_the_same_of_a_seed(tmp_path: Path) -> None:
    for name in ("rendered", "easy-vqa"):
        task = make_task(name, VideoOptions(clips=3))
        first, again, other = task.items(0), task.items(0), task.items(1)
        assert [item.id for item in first] == [item.id for item in again]
        assert not {item.id for item in first} & {item.id for item in other}
        assert len({item.clip for item in first}) == 3
        assert all(item.evidence and item.drawn is not None for item in first)
        assert task.chosen(first[0], f"{first[0].answer.title()}. and more") == first[0].answer
        assert task.chosen(first[0], " ") is None
        with pytest.raises(ConfigError, match="leave it out"):
            make_task(name, VideoOptions(frames=7))
