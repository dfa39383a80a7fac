"""What a vision-language model's tower makes of pictures, computed once and reused over policies and questions.

transformers hands features that were made before to every model of pictures through ``mm_encoder_outputs``; the n-th
of them takes the place of the n-th placeholder token. Kept here are just those numbers, one row a token.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from namm.errors import AttachError, DataError

Modality = Literal["video", "image"]
PIXELS: dict[str, Modality] = {"pixel_values_videos": "video", "pixel_values": "image"}
"""Under which names a processor gives pixels, and which of a model's two ways they go."""

STORE_BYTES = 1 << 30
"""Most bytes of features that a store holds where nothing else is said."""


@dataclass(frozen=True, eq=False)
class Features:
    """Of all pictures of one prompt, in the order of its placeholder tokens."""

    modality: Modality
    pooled: Float[Tensor, "tokens width"]
    """What stands in the place of the tokens' embeddings."""
    deeper: tuple[Float[Tensor, "tokens width"], ...] = ()
    """What some models (Qwen3-VL) add in their first layers, one a layer."""
    stacked: bool = False
    """Whether the model's own code wants a tensor, and not a list."""
    seconds: float = 0.0
    """What computing them took."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pooled.nbytes + sum(one.nbytes for one in self.deeper)

    def rows(self, start: int, stop: int) -> Features:
        """Those of the placeholders from `start` on, before `stop`."""
        return replace(
            self, pooled=self.pooled[start:stop], deeper=tuple(one[start:stop] for one in self.deeper), seconds=0.0
        )


def modality_of(inputs: Mapping[str, Any]) -> Modality:
    """Which way a processor's pixels go.

    Args:
        inputs: What a processor made.

    Raises:
        DataError: There are none, or both.
    """
    found = [name for name in PIXELS if inputs.get(name) is not None]
    if len(found) != 1:
        raise DataError(
            f"Expected pixels of videos or of images from the processor, found {found or 'neither'}; put pictures of "
            "one kind into a prompt."
        )
    return PIXELS[found[0]]


def takes_features(model: PreTrainedModel) -> bool:
    """Whether a model takes features that were computed before."""
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


@torch.no_grad()
def encode(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Features:
    """What the tower makes of pictures, by the model's own code.

    Args:
        model: A vision-language model.
        inputs: A processor's output: pixels, and what belongs to them.

    Raises:
        AttachError: The model's class offers no such function, or takes no features computed before.
    """
    modality = modality_of(inputs)
    function = getattr(model.base_model, f"get_{modality}_features", None)
    if function is None or not takes_features(model):
        raise AttachError(
            f"Expected a model that encodes {modality}s by itself (get_{modality}_features) and takes the result "
            f"(mm_encoder_outputs), found {type(model).__name__}; generate() under `attach` needs neither."
        )
    known = inspect.signature(function).parameters
    given = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
        if name in known and name != "kwargs" and value is not None
    }
    start = _now(model)
    output = function(**given, return_dict=True)
    pooled, stacked = _flat(output.pooler_output)
    deeper = tuple(_flat(one)[0] for one in getattr(output, "deepstack_features", None) or ())
    return Features(modality, pooled, deeper, stacked, _now(model) - start)


def joined(parts: Sequence[Features], model: PreTrainedModel) -> dict[str, BaseModelOutputWithPooling]:
    """Features of several rows as a model's ``mm_encoder_outputs``.

    Args:
        parts: In the order of the placeholders of a batch, row after row; of one modality.
        model: Where they go.

    Raises:
        DataError: They are of both.
    """
    first = parts[0]
    if {part.modality for part in parts} != {first.modality}:
        raise DataError("Expected pictures of one kind in a batch, found videos and images; read them in two batches.")
    pooled = torch.cat([part.pooled for part in parts]).to(model.device)
    output = BaseModelOutputWithPooling(pooler_output=cast("Any", _as_wanted(pooled, first.stacked)))
    if first.deeper:
        levels = [torch.cat(level).to(model.device) for level in zip(*(part.deeper for part in parts), strict=True)]
        # Any: a field of one family's output alone
        cast("Any", output).deepstack_features = [[level] for level in levels]
    return {first.modality: output}


def _as_wanted(features: Tensor, stacked: bool) -> Tensor | list[Tensor]:
    return features[None] if stacked else [features]


def _flat(features: Tensor | Sequence[Tensor]) -> tuple[Float[Tensor, "tokens width"], bool]:
    """One row a token, and whether it was a tensor."""
    rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in features])
    return rows, isinstance(features, Tensor)


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


class FeatureStore:
    """Features by content: the same pixels are encoded once, whatever they are called.

    Attributes:
        model: Whose tower encodes; its weights must stay as they are.
        encoded: How many contents have been encoded.
        seconds: What that took.
    """

    def __init__(self, model: PreTrainedModel, most_bytes: int = STORE_BYTES) -> None:
        """An empty store.

        Args:
            model: A vision-language model.
            most_bytes: What it may hold; what was used longest ago is let go, and encoded again if it comes back.
        """
        self.model, self.most_bytes = model, most_bytes
        self.encoded, self.seconds = 0, 0.0
        self._held: OrderedDict[str, Features] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(features.nbytes for features in self._held.values())

    def of(self, inputs: Mapping[str, Any], key: str | None = None) -> Features:
        """Features of a processor's output, computed if they are not held.

        Args:
            inputs: Pixels, and what belongs to them.
            key: `content_key` of them, where the caller has it already.
        """
        key = content_key(inputs) if key is None else key
        if key not in self._held:
            features = encode(self.model, inputs)
            self.encoded, self.seconds = self.encoded + 1, self.seconds + features.seconds
            self._held[key] = features
            while self.nbytes > self.most_bytes and len(self._held) > 1:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


def content_key(inputs: Mapping[str, Any]) -> str:
    """A hash over all that a processor made of pictures; ids and masks of the text are left out.

    Args:
        inputs: A processor's output.
    """
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        if name in TEXT or value is None:
            continue
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


TEXT = frozenset({"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "video_metadata"})
"""What a processor says of tokens, and not of pictures."""
