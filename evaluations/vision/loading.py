"""A video-language model with what belongs to it: processor, prompts, features, and what decides its answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from evaluations.experiment.models import load_placed
from evaluations.vision.shipped import CLIP_FOLDER
from modalities.huggingface.rope import LinearRope, scale_rope
from modalities.pretrained import Located, locate, weight_facts
from modalities.pretrained.loading import UNREADABLE
from modalities.vision.features import FeatureStore
from modalities.vision.prompts import Composer
from modalities.vision.window import check_window, window_of
from namm.errors import CheckpointError


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded."""

    model: str
    dtype: str = "auto"
    device: str = "cpu"
    """cpu, cuda, cuda:1, or auto: accelerate spreads the layers over all devices."""
    rope_factor: float | None = None
    """Linear stretch of rotary positions."""
    chat: str | None = None
    """Around pictures and question; None takes the processor's chat template."""


class LoadedModel:
    """The model, ready to watch."""

    def __init__(self, options: ModelOptions, index: int = 0) -> None:
        """Loads it.

        Args:
            options: How.
            index: Of this process among those of this machine; where there are several GPUs, each gets its own.

        Raises:
            NammError: There is no such model, or its files cannot be used.
        """
        self.options = options
        self.located = locate(options.model)
        self.name = self.located.name
        self.model, self.processor = _loaded(options, index)
        if options.rope_factor is not None:
            scale_rope(self.model, LinearRope(options.rope_factor))
        self.composer = Composer(self.model, self.processor, options.chat)
        self.store = FeatureStore(self.model)
        self.tokenizer: Any = self.processor.tokenizer

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What decides its answers, for the key of a row."""
        told = {
            "model": self.name, "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type, "rope_factor": self.options.rope_factor, "chat": self.options.chat,
        }  # fmt: skip
        return {
            **told,
            **window_of(self.model).facts(),
            **weight_facts(self.located, getattr(self.model.config, "_commit_hash", None)),
        }

    def past_window(self, tokens: int) -> str | None:
        """What there is to say of prompts that are longer than what the model was trained to read.

        Args:
            tokens: Of the longest, with its answer.
        """
        with warnings.catch_warnings():  # said beside the scores
            warnings.simplefilter("ignore")
            return check_window(self.model, tokens, self.options.rope_factor or 1.0)

    @property
    def own_clip(self) -> str | None:
        """The CLIP that lies in the model's folder."""
        folder = self.located.folder
        own = None if folder is None else Path(folder) / CLIP_FOLDER
        return f"local-dir:{own}" if own is not None and (own / "open_clip_config.json").exists() else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        told = [getattr(self.model.generation_config, "eos_token_id", None), self.tokenizer.eos_token_id]
        flat = [token for entry in told for token in (entry if isinstance(entry, list) else [entry])]
        return frozenset(token for token in flat if token is not None)

    def finished(self, tokens: list[int]) -> bool:
        """Whether generated tokens are a whole answer."""
        return tokens[-1] in self.ends

    def words(self, tokens: Sequence[int]) -> str:
        """An answer up to what ends it."""
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.tokenizer.decode(list(tokens[:end]), skip_special_tokens=True).strip()


def _loaded(options: ModelOptions, index: int) -> tuple[Any, Any]:
    """Any: transformers types neither by what they can do."""
    from transformers import AutoProcessor

    located = locate(options.model)
    model = load_placed(partial(_read, options.model, located), options.dtype, options.device, index)
    try:
        return model, AutoProcessor.from_pretrained(located.source)
    except UNREADABLE as error:
        raise _none_at(options.model, error) from error


def _read(name: str, located: Located, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    read: Any = AutoModelForImageTextToText.from_pretrained
    try:
        config = AutoConfig.from_pretrained(located.source)
        model, told = read(located.source, config=config, use_safetensors=True, output_loading_info=True, **options)
    except UNREADABLE as error:
        raise _none_at(name, error) from error
    if missing := sorted(told["missing_keys"]):
        raise CheckpointError(
            f"The files of {located.name} lack {len(missing)} of its weights ({', '.join(missing[:3])}), which would "
            "be random; fetch them again."
        )
    return model


def _none_at(name: str, error: Exception) -> CheckpointError:
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"Expected a video-language model with its processor at {name!r} (a folder, or a Hub id), found none: {line}"
    )
