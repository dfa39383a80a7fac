"""The video-language model that ships, and words for what its clips show."""

from __future__ import annotations

from pathlib import Path

import checkpoints
from evaluations.tasks.video.drawing import COLOURS

SHIPPED_MODEL = Path(checkpoints.__file__).parent / "video" / "rendered-llava"
SHIPPED_NAMM = Path(checkpoints.__file__).parent / "namm" / "text-v3"
"""The NAMM that is attached where none is named: the newest that was trained on text."""
CLIP_FOLDER = "clip"
"""Where a model's folder has the CLIP that its tower comes from."""

SCENES = (
    "a person talking", "several people", "a face", "an animal", "food", "a street", "a car", "a building", "a room",
    "a landscape", "water", "a sport", "a machine", "hands at work", "text on a screen", "a black screen",
)  # fmt: skip
"""Words for what a frame of any video may show, where no others are named."""
DRAWN = (*(f"the {colour} shapes" for colour in COLOURS), "a number", "nothing")
"""Words for what a frame of a clip that is drawn here may show."""
