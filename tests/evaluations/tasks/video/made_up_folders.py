"""Tiny folders in the exact layout of the benchmarks' makers, with words of our own and video files encoded here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet

from evaluations.tasks.video.mlvu import FILES


def write_video(path: Path, frames: np.ndarray, rate: int = 4) -> Path:
    """An H.264 file of RGB frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"crf": "10"}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def grey_levels(count: int, size: int = 64) -> np.ndarray:
    """Frames that get lighter: what each shows tells which it is."""
    levels = np.linspace(20, 235, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, size, size, 3)).copy()


def longvideobench_row(number: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "video_id": f"v{number // 2}",
        "question": f"What is seen when the bell rings, number {number}?",
        "question_wo_referring_query": "What is seen?",
        "candidates": ["a red boat", "A blue boat", "two boats", "none of these", "a bridge"][: 3 + number % 3],
        "correct_choice": number % 3,
        "position": [2, 3],
        "topic_category": "harbours",
        "question_category": "S2O" if number % 2 else "T2E",
        "level": "L1-Perception",
        "id": f"v{number // 2}_{number}",
        "video_path": f"v{number // 2}.mp4",
        "subtitle_path": f"v{number // 2}_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 100.0,
        "duration": 8.0,
        "view_count": 3,
    }
    return {**row, **changes}


def longvideobench_folder(root: Path, rows: Sequence[dict[str, Any]] | None = None, videos: int = 2) -> Path:
    """lvb_val.json, videos/ and subtitles/; the second video's subtitles are in the second form."""
    rows = [longvideobench_row(number) for number in range(2 * videos)] if rows is None else rows
    root.mkdir(parents=True, exist_ok=True)
    (root / "lvb_val.json").write_text(json.dumps(list(rows)), encoding="utf-8")
    (root / "subtitles").mkdir(exist_ok=True)
    for number in range(videos):
        write_video(root / "videos" / f"v{number}.mp4", grey_levels(32))
        lines: list[dict[str, Any]] = [
            {"timestamp": [101.0, 102.5], "text": "the bell rings"},
            {"timestamp": [106.0, None], "text": "it is quiet"},
        ]
        if number % 2:
            lines = [{"start": "00:01:41.000", "end": "00:01:42.500", "line": "the bell rings"}]
        (root / "subtitles" / f"v{number}_en.json").write_text(json.dumps(lines), encoding="utf-8")
    return root


def mlvu_folder(root: Path) -> Path:
    """json/ and video/, two questions of each kind about one video; the last kind's mirror has no number."""
    (root / "json").mkdir(parents=True)
    for kind, name in FILES.items():
        rows = [
            {
                "video": f"{kind}.mp4",
                "duration": 8.0,
                "question": f"What comes {word}?",
                "candidates": ["rain", "snow", "sun", "hail", "fog", "wind"][: 4 + 2 * (kind == "order")],
                "answer": "snow",
                "question_type": kind,
            }
            for word in ("first", "last")
        ]
        (root / "json" / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        folder = kind if kind == "topic_reasoning" else name
        write_video(root / "video" / folder / f"{kind}.mp4", grey_levels(8))
    return root


def video_mme_folder(root: Path) -> Path:
    """videomme/, data/ and subtitle/; the second video has no subtitles."""
    rows = [
        {
            "video_id": f"{number:03d}",
            "duration": "short",
            "domain": "Life",
            "sub_category": "Boats",
            "url": f"https://example.org/{number}",
            "videoID": f"clip{number // 2}",
            "question_id": f"{number:03d}-1",
            "task_type": "Counting Problem",
            "question": "How many boats?",
            "options": ["A. one.", "B. two.", "C. three.", "D. four."],
            "answer": "BD"[number % 2],
        }
        for number in range(4)
    ]
    (root / "videomme").mkdir(parents=True)
    (root / "subtitle").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "videomme" / "test-00000-of-00001.parquet")
    for number in range(2):
        write_video(root / "data" / f"clip{number}.mp4", grey_levels(16))
    srt = "1\n00:00:00,500 --> 00:00:01,500\n<i>Look</i>\nthere!\n\n2\n00:00:02,000 --> 00:00:02,250\nA boat.\n"
    (root / "subtitle" / "clip0.srt").write_text(srt, encoding="utf-8")
    return root
