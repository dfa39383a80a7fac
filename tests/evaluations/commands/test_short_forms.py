"""The short form of a command is for what was not said: nothing that was asked for is cut down without a word."""

from __future__ import annotations

import pytest

from evaluations import rl, text
from evaluations.commands.line import parsed
from evaluations.control.config import RLConfig
from evaluations.language.experiment import setup_of as text_setup
from evaluations.vision.config import VideoConfig
from evaluations.vision.experiment import setup_of as video_setup


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [([], 32), (["--quick"], 8), (["--quick", "--prompts", "16"], 16), (["--prompts", "4"], 4)],
)
def test_text_asks_as_many_prompts_as_were_asked_for(arguments: list[str], prompts: int) -> None:
    assert text_setup(text.configuration(arguments), ()).exams.prompts == prompts


@pytest.mark.parametrize(
    ("arguments", "clips"), [([], 24), (["--quick"], 4), (["--quick", "--clips", "6"], 6), (["--clips", "2"], 2)]
)
def test_video_shows_as_many_clips_as_were_asked_for(arguments: list[str], clips: int) -> None:
    assert video_setup(parsed(VideoConfig, arguments, "namm-video", None), ()).videos.clips == clips


@pytest.mark.parametrize(
    ("arguments", "seeds"), [([], (0, 1, 2)), (["--quick"], (0,)), (["--quick", "--seeds", "3", "4"], (3, 4))]
)
def test_control_plays_the_seeds_that_were_asked_for(
    arguments: list[str], seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[RLConfig] = []
    monkeypatch.setattr(rl, "run", lambda config, command: played.append(config))
    assert rl.main(arguments) == 0
    assert [config.seeds for config in played] == [seeds]
