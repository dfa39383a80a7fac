"""What a vision-language model is examined with: prompts that hold a small video or picture of noise.

Every family has its own words for pixels, grids and placeholder tokens. Here is, for each that is known, the smallest
video that its own functions take; what is then examined is the contract of any model. Which video a row holds follows
from the token before it, so that a row says by itself what it shows, whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.conformance.subject import LENGTHS

BEFORE = 2
"""Tokens of text before the pictures."""
FRAMES = 2


@dataclass(frozen=True)
class Pictures:
    """The pictures of one family, and the tokens that stand for them.

    Attributes:
        tokens: Of one row's pictures: placeholders, and what the family writes around them.
        placeholder: Which of them are replaced by features.
        made: The model's arguments for the pictures of some rows, from a seed each.
        kind: What it is, in words.
    """

    tokens: tuple[int, ...]
    placeholder: int
    made: Callable[[list[int]], dict[str, Any]]
    kind: str

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of prompts with as much text as others have."""
        return tuple(length + len(self.tokens) for length in LENGTHS)

    def placed(
        self, ids: Int[Tensor, "batch columns"], mask: Int[Tensor, "batch columns"]
    ) -> Int[Tensor, "batch columns"]:
        """Prompts with pictures near the beginning of each row.

        Args:
            ids: Drawn tokens.
            mask: 0 for padding, which comes first.
        """
        ids = ids.clone()
        for row, first in enumerate((mask == 0).sum(1).tolist()):
            start = first + BEFORE
            ids[row, start : start + len(self.tokens)] = torch.tensor(self.tokens, device=ids.device)
        return ids

    def given(self, ids: Int[Tensor, "batch columns"]) -> dict[str, Any]:
        """The model's further arguments for these rows; empty for those that hold no pictures.

        Args:
            ids: Tokens of a call.
        """
        where = ids == self.placeholder
        rows = where.any(1).nonzero()[:, 0].tolist()
        if not rows:
            return {}
        begins = self.tokens.index(self.placeholder) + 1  # the last token of the text before
        seeds = [int(ids[row, int(where[row].int().argmax()) - begins]) for row in rows]
        found = self.made(seeds)
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in found:
                found[name] = where.long() * int(found[name])
        return {name: value.to(ids.device) if isinstance(value, Tensor) else value for name, value in found.items()}


def pictures_of(model: PreTrainedModel) -> Pictures | None:
    """The pictures that a model is examined with; None for one that takes none, or whose are not known here."""
    make = FAMILIES.get(str(model.config.model_type))
    return None if make is None or not hasattr(model.config, "vision_config") else make(model)


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _many(seeds: list[int], *shape: int) -> Tensor:
    return torch.stack([_noise(seed, *shape) for seed in seeds])


def _frames(model: PreTrainedModel, of_frames: Callable[[int], int], kind: str = "video") -> Pictures:
    """A video as frames of pixels."""
    config = cast("Any", model.config)
    size = config.vision_config.image_size
    placeholder = config.video_token_id

    def made(seeds: list[int]) -> dict[str, Any]:
        return {"pixel_values_videos": _many(seeds, FRAMES, 3, size, size)}

    return Pictures((placeholder,) * of_frames(size // config.vision_config.patch_size), placeholder, made, kind)


def _llava_next_video(model: PreTrainedModel) -> Pictures:
    stride = cast("Any", model.config).spatial_pool_stride
    return _frames(model, lambda side: FRAMES * (side // stride) ** 2)


def _llava_onevision(model: PreTrainedModel) -> Pictures:
    return _frames(model, lambda side: FRAMES * (-(-side // 2)) ** 2 + 1)


def _video_llava(model: PreTrainedModel) -> Pictures:
    return _frames(model, lambda side: FRAMES * (side**2 + 1))


def _image(model: PreTrainedModel, tokens: int, more: Mapping[str, Any], deep: bool = True) -> Pictures:
    """One picture as pixels."""
    config = cast("Any", model.config)
    size, placeholder = config.vision_config.image_size, config.image_token_id
    shape = (1, 3, size, size) if deep else (3, size, size)

    def made(seeds: list[int]) -> dict[str, Any]:
        repeated = {name: torch.tensor([value] * len(seeds)) for name, value in more.items()}
        return {"pixel_values": _many(seeds, *shape), **repeated}

    return Pictures((placeholder,) * tokens, placeholder, made, "picture")


def _side(model: PreTrainedModel) -> int:
    vision = cast("Any", model.config).vision_config
    return vision.image_size // vision.patch_size


def _llava(model: PreTrainedModel) -> Pictures:
    return _image(model, _side(model) ** 2, {}, deep=False)


def _idefics3(model: PreTrainedModel) -> Pictures:
    return _image(model, (_side(model) // cast("Any", model.config).scale_factor) ** 2, {})


def _internvl(model: PreTrainedModel) -> Pictures:
    config = cast("Any", model.config)
    height, width = config.vision_config.image_size
    side = height // config.vision_config.patch_size[0]
    tokens = int((side * config.downsample_ratio) ** 2)

    def made(seeds: list[int]) -> dict[str, Any]:
        return {"pixel_values": _many(seeds, 3, height, width)}

    return Pictures((config.image_token_id,) * tokens, config.image_token_id, made, "picture")


def _gemma3(model: PreTrainedModel) -> Pictures:
    """Its processor marks the tokens of a picture, which then see each other both ways."""
    pictures = _image(model, cast("Any", model.config).mm_tokens_per_image, {}, deep=False)
    return replace(pictures, made=lambda seeds: {**pictures.made(seeds), "token_type_ids": 1})


def _patches(model: PreTrainedModel, steps: int = FRAMES) -> Pictures:
    """A video as patches and a grid of steps in time, rows and columns (Qwen-VL)."""
    config = cast("Any", model.config)
    vision = config.vision_config
    side = 2 * vision.spatial_merge_size
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", 3)
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    still = steps == 1
    kind, which = ("image", 1) if still else ("video", 2)
    pixels = "pixel_values" if still else "pixel_values_videos"
    placeholder = config.image_token_id if still else config.video_token_id

    def made(seeds: list[int]) -> dict[str, Any]:
        found = {
            pixels: torch.cat([_noise(seed, steps * side**2, width) for seed in seeds]),
            f"{kind}_grid_thw": torch.tensor([[steps, side, side]] * len(seeds)),
            "mm_token_type_ids": which,  # of each placeholder; the row of numbers follows from a call's tokens
        }
        if hasattr(vision, "tokens_per_second") and not still:
            found["second_per_grid_ts"] = torch.tensor([1.0] * len(seeds))
        return found

    count = steps * (side // vision.spatial_merge_size) ** 2
    around = (config.vision_start_token_id, *[placeholder] * count, config.vision_end_token_id)
    return Pictures(around, placeholder, made, f"{kind}, positions in three dimensions")


def _picture_of_patches(model: PreTrainedModel) -> Pictures:
    return _patches(model, steps=1)


FAMILIES: dict[str, Callable[[PreTrainedModel], Pictures]] = {
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "llava": _llava,
    "llava_next_video": _llava_next_video,
    "llava_onevision": _llava_onevision,
    "paligemma": _llava,
    "qwen2_5_vl": _patches,
    "qwen2_vl": _patches,
    "qwen3_vl": _picture_of_patches,
    "smolvlm": _idefics3,
    "video_llava": _video_llava,
    "vipllava": _llava,
}
"""Families whose pictures are known; others are examined on text."""
