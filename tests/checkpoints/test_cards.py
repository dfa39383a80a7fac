"""Every card names the weights that lie beside it, by the checksum that a stranger's tools print."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import checkpoints

CARDS = sorted(path.parent for path in Path(checkpoints.__file__).parent.rglob("README.md"))


@pytest.mark.parametrize("folder", CARDS, ids=lambda path: path.name)
def test_the_checksum_in_a_card_is_that_of_the_weights(folder: Path) -> None:
    (told,) = re.findall(r"sha256 of model\.safetensors: `(\w+)`", (folder / "README.md").read_text("utf-8"))
    assert told == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
