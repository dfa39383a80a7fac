"""What a CLIP of open_clip's thinks of frames: how well each fits a text, how much it differs from the one before.

Any of its models: `ViT-L-14-336:openai` (an architecture and the name or file of its weights), `hf-hub:OWNER/NAME`,
`local-dir:FOLDER`. All numbers are cosines of its two towers' outputs, so that they can be had again with open_clip
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from modalities.vision.places import TEXT, TokenPlaces
from namm.errors import CheckpointError, ConfigError, DataError

WHOLE = ("local-dir:", "hf-hub:")
"""Names that say by themselves where the weights are."""
BATCH = 64
"""Frames that are looked at together."""
NEW = 2.0
"""How much the first frame differs from the one before it: as much as two can."""


class Judge:
    """One CLIP.

    Attributes:
        name: As it was asked for.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """Loads it.

        Args:
            name: See the module.
            device: Where it runs.

        Raises:
            ConfigError: An architecture without weights, which would judge at random.
            CheckpointError: There is no such model, or its files cannot be used.
        """
        import open_clip  # after modalities, which makes torchvision importable beside a CPU torch

        architecture, _, weights = (name, "", "") if name.startswith(WHOLE) else name.partition(":")
        if not weights and not name.startswith(WHOLE):
            raise ConfigError(
                f"expected a CLIP with weights, such as {name}:openai, {name}:FILE, hf-hub:OWNER/NAME or "
                f"local-dir:FOLDER, found {name!r}, whose weights would be random"
            )
        self.name = name
        try:
            model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=weights or None)
            self._tokenize: Any = open_clip.get_tokenizer(architecture)
        except Exception as error:  # open_clip raises whatever its files and the Hub's client do
            raise CheckpointError(
                f"expected a model of open_clip at {name!r}, found none: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}"
            ) from error
        self.device = torch.device(device)
        self._model: Any = model.to(self.device).eval()
        self._transform: Any = transform

    @cached_property
    def sha256(self) -> str:
        """Over all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def frames(self, frames: UInt8[np.ndarray, "frames height width 3"]) -> Float[Tensor, "frames features"]:
        """What it makes of frames, of length 1."""
        from PIL import Image

        found = []
        for start in range(0, len(frames), BATCH):
            pictures = [self._transform(Image.fromarray(frame)) for frame in frames[start : start + BATCH]]
            found.append(self._model.encode_image(torch.stack(pictures).to(self.device), normalize=True).float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """What it makes of texts, of length 1; the end of a long one is not read."""
        return self._model.encode_text(self._tokenize(list(texts)).to(self.device), normalize=True).float().cpu()


def relevance(frames: Float[Tensor, "frames features"], text: Float[Tensor, " features"]) -> Float[Tensor, " frames"]:
    """How well each frame fits a text: the cosine."""
    return frames @ text


def novelty(frames: Float[Tensor, "frames features"]) -> Float[Tensor, " frames"]:
    """How much each frame differs from the one before: one minus the cosine; `NEW` for the first."""
    before = (frames[1:] * frames[:-1]).sum(-1)
    return torch.cat([frames.new_full((1,), NEW), 1.0 - before])


def best_frames(worth: Float[Tensor, " frames"], count: int) -> list[int]:
    """The frames of the highest worth, in the order of time; of equals the earlier.

    Args:
        worth: Of each frame.
        count: How many; all, where there are no more.

    Raises:
        DataError: Fewer than one are wanted.
    """
    if count < 1:
        raise DataError(f"expected at least one frame to be chosen, found {count}")
    order = torch.sort(worth, descending=True, stable=True).indices[:count]
    return sorted(order.tolist())


def token_grades(places: TokenPlaces, worth: Float[Tensor, " frames"]) -> tuple[float, ...]:
    """The worth of each token of a context: its frame's (the best one's where it shows several); +inf for text."""
    shown = torch.nn.functional.pad(worth.float(), (0, places.frames_per_token), value=-torch.inf)
    frame = places.frame.clamp_min(0)
    best = torch.stack([shown[frame + later] for later in range(places.frames_per_token)]).amax(0)
    return tuple(torch.where(places.frame == TEXT, torch.inf, best).tolist())
