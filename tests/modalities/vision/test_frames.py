"""Frames of real files that are made here: what is seen of them, when, which way up, and what is said of bad ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.frames import clip_of, part_of, read_clip
from modalities.vision.sampling import sampled
from namm.errors import ConfigError, DataError

HEIGHT, WIDTH = 32, 48


def grey(level: int) -> np.ndarray:
    """A frame that says its number by how bright it is, with a black corner on the top left."""
    frame = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    frame[: HEIGHT // 2, : WIDTH // 2] = 0
    return frame


def write_video(path: Path, times: list[int], rate: int = 10, codec: str = "libx264", key: int = 4) -> Path:
    """A video whose n-th frame is shown at the n-th time, in tenths of a second, and is 40 + 10 n bright."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", key
        stream.codec_context.time_base = Fraction(1, rate)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(40 + 10 * number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(clip) -> list[int]:
    """Which frames these are, by their brightness on the right."""
    return [round((float(frame[-8:, -8:].mean()) - 40) / 10) for frame in clip.frames]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "steady.mp4", list(range(20)))


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [("left", [0, 10]), ("even", [0, 2, 5, 8, 11, 14, 17]), ("ends", [0, 3, 6, 9, 12, 15, 19]), ("all", [*range(20)])],
)
def test_each_rule_chooses_its_frames(steady: Path, sampling, wanted: list[int]) -> None:
    clip = read_clip(steady, 7, sampling)  # two seconds long: LongVideoBench takes no more than one frame of each
    assert numbers(clip) == wanted == list(clip.indices)
    assert clip.seconds == pytest.approx([number / 10 for number in wanted])
    assert (clip.total_frames, clip.duration, clip.fps) == (20, pytest.approx(2.0), pytest.approx(10))


def test_rules_are_as_the_benchmarks_write_them() -> None:
    assert sampled(100, 8, "left", 1000.0) == [int(100 / 8) * place for place in range(8)]
    assert sampled(100, 8, "ends", 1000.0) == np.linspace(0, 99, 8, dtype=int).tolist()
    assert sampled(100, 8, "even", 1000.0) == np.arange(0, 100, 100 / 8).astype(int).tolist()
    assert sampled(100, 64, "left", 3.9) == [0, 33, 66]
    with pytest.raises(ConfigError, match="Unknown way of sampling 'end'"):
        sampled(3, 2, "end", 1.0)


def test_where_the_rate_changes_frames_are_chosen_by_time(tmp_path: Path) -> None:
    times = [*range(10), *range(10, 110, 10)]  # ten in the first second, then one a second
    clip = read_clip(write_video(tmp_path / "phone.mkv", times), 5, "even")
    assert clip.seconds == pytest.approx([0.0, 2.0, 4.0, 6.0, 8.0], abs=1.01)
    assert numbers(clip) == list(clip.indices)
    assert clip.seconds == pytest.approx([times[index] / 10 for index in clip.indices], abs=2e-3)


def test_a_video_of_a_phone_that_was_turned_is_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "turned.mp4", [0, 1])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # a quarter clockwise
    data[matrix : matrix + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in turned)
    path.write_bytes(data)
    frame = read_clip(path).frames[0]
    assert frame.shape == (WIDTH, HEIGHT, 3)
    assert frame[4, -4].max() < 20 < 30 < frame[4, 4].min()  # the black corner is now on the top right


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_frames_far_apart_are_found_from_key_frames(tmp_path: Path, codec: str) -> None:
    path = write_video(tmp_path / "keys.mp4", list(range(20)), codec=codec, key=3)
    assert numbers(read_clip(path, 3, "ends")) == [0, 9, 19]
    assert numbers(read_clip(path, 2, "even")) == [0, 10]


def test_bad_files_are_named_with_what_is_wrong(tmp_path: Path, steady: Path) -> None:
    empty, text, sound, cut = (tmp_path / name for name in ("empty.mp4", "text.mp4", "sound.wav", "cut.mp4"))
    empty.write_bytes(b"")
    text.write_text("no video " * 200)
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = steady.read_bytes()
    cut.write_bytes(data[: len(data) // 3])
    wanted = {
        empty: "empty one",
        text: "no container",
        sound: "only audio",
        cut: "no container",
        tmp_path / "none.mp4": "nothing",
    }
    for path, said in wanted.items():
        with pytest.raises(DataError, match=said) as error:
            read_clip(path, 4)
        assert str(path) in str(error.value)
        assert "expected" in str(error.value)
        assert "found" in str(error.value)
    with pytest.raises(DataError, match="at least 21 frames, found 20") as error:
        read_clip(steady, 21)
    assert str(steady) in str(error.value)


def test_a_file_with_damage_inside_is_refused_or_read_in_full(tmp_path: Path, steady: Path) -> None:
    """Never with a frame that is another one."""
    data = bytearray(steady.read_bytes())
    begin = data.index(b"mdat") + 40
    data[begin : begin + len(data) // 2] = bytes(len(data) // 2)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged\.mp4"):
        read_clip(damaged)


def test_a_folder_of_images_is_a_video_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(grey(40 + 10 * number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    clip = read_clip(tmp_path, 4, "even", fps=2.0)
    assert numbers(clip) == [0, 3, 6, 9]
    assert clip.seconds == (0.0, 1.5, 3.0, 4.5)
    Image.fromarray(grey(0)[:10]).save(tmp_path / "frame3.png")
    with pytest.raises(DataError, match="one size"):
        read_clip(tmp_path, 4, "even")
    (tmp_path / "frame3.png").write_text("no image")
    with pytest.raises(DataError, match=r"frame3\.png: expected an image"):
        read_clip(tmp_path, 4, "even")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="folder of images"):
        read_clip(tmp_path / "none")


def test_an_array_is_a_video_too() -> None:
    frames = np.stack([grey(40 + 10 * number) for number in range(8)])
    assert numbers(read_clip(frames, 4, "even", fps=4.0)) == [0, 2, 4, 6]
    assert numbers(read_clip(torch.from_numpy(frames))) == [*range(8)]
    assert part_of(clip_of(frames), [1, 5]).indices == (1, 5)
    with pytest.raises(DataError, match="float64"):
        read_clip(frames / 255.0)
    with pytest.raises(DataError, match="places among 8"):
        part_of(clip_of(frames), [8])
