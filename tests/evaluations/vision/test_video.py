"""The command for video from a folder of LongVideoBench to its report, with a damaged video and a missing subtitle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import checkpoints
from evaluations.boards.run_content import run_content
from evaluations.rows.file import Row
from evaluations.rows.trials import of
from evaluations.video import main, run
from evaluations.vision.config import VideoConfig
from modalities.vision.frames import read_clip
from namm.errors import CheckpointError, ConfigError, DataError
from tests.evaluations.tasks.video.made_up_folders import longvideobench_folder, longvideobench_row
from tests.evaluations.vision.tiny_models import clip_folder, model_folder

POLICIES = ("full", "namm", "window", "random", "relevance", "redundancy", "frame_selection")
FRAMES = 8
NAMM = Path(checkpoints.__file__).parent / "namm" / "text-v2"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("video")
    model_folder(root / "model")
    rows = [longvideobench_row(number) for number in range(8)]
    data = longvideobench_folder(root / "data", rows, videos=4)
    (data / "videos" / "v2.mp4").write_bytes(b"no video at all")
    (data / "subtitles" / "v3_en.json").unlink()
    return root


def config_of(folder: Path, out: str = "out", **changes: Any) -> VideoConfig:
    config = VideoConfig(
        model=str(folder / "model"),
        namm=NAMM,
        policy=POLICIES,
        benchmark=("longvideobench",),
        data=folder / "data",
        frames=FRAMES,
        subtitles=True,
        interval=16,
        batch=3,
        out=folder / out,
        wandb="disabled",
    )
    return replace(config, **changes)


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Row]:
    return {row["policy"]: row for row in run(config_of(folder))}


def test_what_cannot_be_read_is_listed_and_not_scored(rows: dict[str, Row]) -> None:
    assert set(rows) == {"namm:source" if name == "namm" else name for name in POLICIES}
    for row in rows.values():
        assert [trial["id"] for trial in row["questions"]] == ["v0_0", "v0_1", "v1_2", "v1_3"]
        failed = {one["id"]: one["error"] for one in row["failed"]}
        assert set(failed) == {"v2_4", "v2_5", "v3_6", "v3_7"}
        assert "v2.mp4: expected a file of video" in failed["v2_4"]
        assert "v3_en.json" in failed["v3_6"]
        assert row["score"] == np.mean([trial["score"] for trial in row["questions"]])
        assert "4 not asked" in of(row).environment(row)
        assert all(trial["score"] == 100.0 * (trial["chosen"] == trial["expected"]) for trial in row["questions"])


def test_memory_is_equal_and_the_evidence_is_followed(rows: dict[str, Row]) -> None:
    asked = rows["namm:source"]["metrics"]["slots_mean"]
    assert asked < rows["full"]["metrics"]["slots_mean"]
    for policy in ("window", "random", "relevance", "redundancy", "frame_selection"):
        assert asked <= rows[policy]["metrics"]["slots_mean"] < rows["full"]["metrics"]["slots_mean"]
        assert rows[policy]["memory"]["matched_to"] == "namm:source"
    assert [trial["evidence_kept"] for trial in rows["full"]["questions"]] == [1.0] * 4
    assert all(trial["evidence_kept"] < 1.0 for trial in rows["window"]["questions"])
    # frames 2 and 3 of 32 are nearest to the first two that are seen, 0 and 4, with six after these
    assert {trial["age"] for trial in rows["full"]["questions"]} == {FRAMES - 2}
    assert rows["full"]["trace"]["kept"] == [1.0] * FRAMES
    assert sorted(set(rows["frame_selection"]["trace"]["kept"])) == [0.0, 1.0]


def test_what_the_clip_says_can_be_had_again_with_open_clip_alone(folder: Path, rows: dict[str, Row]) -> None:
    name = f"local-dir:{folder / 'model' / 'clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    trace = rows["window"]["trace"]
    trial = next(trial for trial in rows["window"]["questions"] if trial["id"] == trace["id"])
    frames = read_clip(folder / "data" / "videos" / f"{trial['clip']}.mp4", FRAMES, "left").frames
    question = trace["question"].split("\n")[0]
    with torch.no_grad():
        pictures = model.eval().encode_image(
            torch.stack([transform(Image.fromarray(frame)) for frame in frames]), normalize=True
        )
        cosine = pictures @ model.encode_text(open_clip.get_tokenizer(name)([question]), normalize=True)[0]
    np.testing.assert_allclose(trace["relevance"], cosine.numpy(), atol=2e-4)
    expected = spearmanr(trace["kept"], cosine.numpy()).statistic
    assert trial["kept_by_relevance"] == pytest.approx(expected, abs=1e-3)
    best = set(np.argsort(-cosine.numpy())[: int(sum(rows["frame_selection"]["trace"]["kept"]))])
    assert {place for place, kept in enumerate(rows["frame_selection"]["trace"]["kept"]) if kept} == best


def test_the_same_command_goes_on_and_shows_it_again(folder: Path, rows: dict[str, Row]) -> None:
    out = folder / "out"
    before = (out / "rows.jsonl").read_text()
    assert len(run(config_of(folder))) == len(POLICIES)
    assert (out / "rows.jsonl").read_text() == before
    page = (out / "report.html").read_text()
    for said in ("frames seen since the evidence", "by kind of question", "What is kept of each frame", "4 questions"):
        assert said in page
    assert page.count("data:image/jpeg") == FRAMES
    content = run_content(rows["window"], "out", {})
    assert content.summary["evidence_kept"] == rows["window"]["metrics"]["evidence_kept"]
    assert any(entry.get("question/evidence_kept") is not None for entry in content.history)


def test_a_killed_cell_asks_what_is_left(folder: Path, rows: dict[str, Row]) -> None:
    """The first batch's answers are there, the second's line is half written."""
    row, key = rows["window"], rows["window"]["key"]
    lines = (folder / "out" / "answers" / f"{key}.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    (folder / "again" / "answers").mkdir(parents=True)
    first = json.loads(lines[0])
    first["trials"][0]["said"] = "from the journal"
    half = json.dumps(first).encode() + b"\n" + lines[1][:40]
    (folder / "again" / "answers" / f"{key}.jsonl").write_bytes(half)
    sized = row["identity"]["budget"]
    config = config_of(folder, "again", policy=("namm", "window"))
    again = {one["policy"]: one for one in run(config)}["window"]
    assert again["identity"]["budget"] == sized
    assert again["key"] == key
    assert again["questions"][0]["said"] == "from the journal"
    assert [one["score"] for one in again["questions"]] == [one["score"] for one in row["questions"]]


def test_curves_try_every_policy_at_the_same_budgets(folder: Path) -> None:
    """The NAMM's threshold is off: it holds what its rivals hold."""
    config = config_of(folder, "curve", policy=("full", "namm", "window"), curve=2, limit=2)
    found = run(config)
    points = [row for row in found if row["memory"]["role"] == "curve"]
    slots = {
        name: [row["metrics"]["slots_mean"] for row in points if row["policy"] == name] for name in rows_of(points)
    }
    assert len(points) == 4
    assert slots["namm:source"] == pytest.approx(slots["window"])
    assert 0 < slots["window"][0] < slots["window"][1] < found[0]["metrics"]["tokens_seen"]
    assert "Score against cache size" in (config.out / "report.html").read_text()
    with pytest.raises(ConfigError, match="needs full"):
        run(config_of(folder, "wrong", policy=("namm",), curve=2))


def rows_of(points: list[Row]) -> set[str]:
    return {row["policy"] for row in points}


def test_prompts_past_the_window_are_told(folder: Path, tmp_path: Path) -> None:
    """Also stretched, as long as that is not enough; what is stretched stands in the identity."""
    short = tmp_path / "short"
    shutil.copytree(folder / "model", short)
    told = json.loads((short / "config.json").read_text())
    told["text_config"]["max_position_embeddings"] = 40
    (short / "config.json").write_text(json.dumps(told))
    for factor, wanted in ((None, "stretched by 1:"), (2.0, "stretched by 2:"), (8.0, None)):
        config = config_of(
            folder, model=str(short), policy=("full",), limit=2, rope_factor=factor, out=tmp_path / "out"
        )
        row = run(config)[0]
        assert (row["identity"]["window"], row["identity"]["rope_factor"]) == (40, factor)
        said = [text for _, text in of(row).remarks(row)]
        assert any(wanted in text for text in said) if wanted else not said


def test_mistakes_are_told_before_anything_is_watched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, error, said in (
        ({"model": str(folder / "data")}, CheckpointError, "video-language model"),
        ({"policy": ("window",)}, ConfigError, "need a size"),
        ({"clip": "ViT-B-32"}, ConfigError, "would be random"),
        ({"clip": f"local-dir:{folder / 'data'}"}, CheckpointError, "model of open_clip"),
        ({"benchmark": ("mlvu",), "data": None}, ConfigError, "--data FOLDER"),
        ({"labels": folder / "none.txt"}, DataError, "one a line"),
        ({"rope_factor": 0.5}, ConfigError, "1 or more"),
    ):
        with pytest.raises(error, match=said):
            run(config_of(folder, "wrong", **changes))
    plain = folder / "plain"
    if not plain.exists():
        plain.symlink_to(folder / "model")
    assert main(["--model", str(plain), "--benchmark", "rendered", "--budget", "0", "--wandb", "disabled"]) == 2
    assert "--budget must be 1 or more" in capsys.readouterr().err
    assert clip_folder(folder / "other").exists()
