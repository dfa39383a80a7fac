"""A video and a question become what a vision-language model reads, through its own processor and chat template.

A *scene* is what comes before the question: pictures, and text between them, processed once. Every question about it
becomes a prompt that shares the scene's tokens and pictures, so that these are read and encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.language.prompts import Prompt
from modalities.vision.features import TEXT, Modality, content_key, modality_of
from modalities.vision.frames import Clip
from modalities.vision.places import TokenPlaces, places_of
from namm.errors import ConfigError, DataError

Content = Clip | Sequence["str | Clip"]
"""Pictures, with text between them where there is some (subtitles, say)."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Pictures, and what a model reads before a question about them."""

    ids: tuple[int, ...]
    """Tokens up to the last picture's last."""
    closing: tuple[int, ...]
    """What the processor writes behind the last picture, before the question."""
    inputs: Mapping[str, Any]
    """Pixels, and what belongs to them, as the processor gives them."""
    modality: Modality
    placeholder: int
    """The token that stands for a part of a picture."""
    places: TokenPlaces
    key: str
    """A hash over the pictures: by it features are stored."""
    positions: Int[Tensor, "dimensions tokens_and_next"] | None
    """Where the model's own rule places the tokens and the first one behind them, if it counts in several dimensions
    (M-RoPE)."""
    number: int
    """Of its sequences in a memory, by which a policy's random draws differ."""
    composer: Composer = field(repr=False)
    content: Content = field(repr=False)

    @property
    def pictures(self) -> int:
        """How many tokens stand for parts of pictures."""
        return self.ids.count(self.placeholder)

    def prompt(self, question: str, new_tokens: int = 0, answer: str | None = None) -> ScenePrompt:
        """A question about the scene.

        Args:
            question: In words, as the chat template wants it in the user's turn.
            new_tokens: Longest answer to generate.
            answer: Scored, token by token, instead of generated.
        """
        return self.composer.prompt(self, question, new_tokens, answer)


@dataclass(frozen=True)
class ScenePrompt(Prompt):
    """A prompt whose context holds pictures."""

    scene: Scene = field(kw_only=True, compare=False)
    """Theirs."""


class Composer:
    """Makes scenes and prompts for one model.

    Attributes:
        model: A vision-language model.
        processor: Its own, with a tokenizer.
        template: With ``{content}`` where pictures and question go; None takes the processor's chat template.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, template: str | None = None) -> None:
        """A composer.

        Raises:
            ConfigError: The processor has no chat template and none is given.
        """
        if template is None and not getattr(processor, "chat_template", None):
            raise ConfigError(
                "Expected a processor with a chat template, found one without; pass template='USER: {content} "
                "ASSISTANT:' or whatever the model was trained on."
            )
        if template is not None and template.count("{content}") != 1:
            raise ConfigError(f"Expected a template with {{content}} once, found {template!r}.")
        self.model, self.processor, self.template = model, processor, template
        self.tokenizer = processor.tokenizer
        self.takes_video = getattr(processor, "video_processor", None) is not None
        kind = "video" if self.takes_video else "image"
        self.word = getattr(processor, f"{kind}_token", None) or getattr(self.tokenizer, f"{kind}_token", f"<{kind}>")

    def scene(self, content: Content, number: int = 0) -> Scene:
        """Processes pictures and what is between them.

        Args:
            content: A clip, or clips and text in the order in which they are to be read.
            number: Of the scene in an experiment; random draws of policies depend on it.

        Raises:
            ConfigError: The processor makes pictures of another size than the model's tower takes, or its template
                changes the order.
            DataError: There is no picture, or tokens and pictures do not fit each other.
        """
        parts: list[str | Clip] = [content] if isinstance(content, Clip) else list(content)
        clips = [part for part in parts if isinstance(part, Clip)]
        if not clips:
            raise DataError("Expected at least one clip in a scene, found text alone; read it as a text prompt.")
        before, behind = self._written(parts, "?")
        inputs = self._processed(before + behind, clips)
        ids = inputs["input_ids"][0].tolist()
        modality = modality_of(inputs)
        placeholder = int(getattr(self.model.config, f"{modality}_token_id"))
        if placeholder not in ids:
            raise DataError(
                f"Expected tokens {placeholder} in the place of pictures, found none: processor and model differ."
            )
        end = len(ids) - ids[::-1].index(placeholder)
        question = self._tokens_behind(placeholder, behind)
        closing = ids[end : len(ids) - len(question)]
        if ids[end:] != [*closing, *question]:
            raise ConfigError(
                f"Expected the question's tokens {question} at the end of the processor's, found {ids[end:]}; the "
                "tokenizer joins the end of the pictures with what follows. Pass a template with a new line there."
            )
        beside = {name: value for name, value in inputs.items() if name not in TEXT}
        self._check_size(beside)
        mask = [token == placeholder for token in ids[:end]]
        frames = sum(len(clip.seconds) for clip in clips)
        return Scene(
            ids=tuple(ids[:end]),
            closing=tuple(closing),
            inputs=beside,
            modality=modality,
            placeholder=placeholder,
            places=places_of(mask, frames, self._grids(beside), _shape(beside)),
            key=content_key(beside),
            positions=self._positions(inputs, end),
            number=number,
            composer=self,
            content=content,
        )

    def prompt(self, scene: Scene, question: str, new_tokens: int = 0, answer: str | None = None) -> ScenePrompt:
        """See `Scene.prompt`.

        Raises:
            DataError: The question holds the word that stands for a picture.
        """
        parts: list[str | Clip] = [scene.content] if isinstance(scene.content, Clip) else list(scene.content)
        _, behind = self._written(parts, question)
        tokens = [*scene.closing, *self._tokens_behind(scene.placeholder, behind)]
        if scene.placeholder in tokens:
            raise DataError(f"Expected a question without {self.word!r}, found {question!r}; write it in other words.")
        targets: tuple[int, ...] = ()
        if answer is not None:
            more = self.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            targets = (*[-100] * (len(tokens) - 1), *more)
            tokens += more[:-1]
        return ScenePrompt(scene.ids, tuple(tokens), targets, new_tokens, scene=scene)

    def _written(self, parts: Sequence[str | Clip], question: str) -> tuple[str, str]:
        """The prompt up to the last picture, and behind it."""
        said = [*parts, question]
        if self.template is not None:
            lines = [part if isinstance(part, str) else self.word for part in said]
            text = self.template.replace("{content}", "\n".join(lines))
        else:
            kind = "video" if self.takes_video else "image"
            content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": kind} for part in said]
            turn = [{"role": "user", "content": content}]
            text = cast("str", self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        self._check_order(text, said)
        before, word, behind = text.rpartition(self.word)
        return before + word, behind

    def _check_order(self, text: str, said: Sequence[str | Clip]) -> None:
        """The template has put every part where it belongs."""
        place = 0
        for part in said:
            wanted = part.strip() if isinstance(part, str) else self.word
            found = text.find(wanted, place)
            if found < 0:
                raise ConfigError(
                    f"Expected the chat template to keep {wanted!r} in its place among pictures and text, found it "
                    f"moved or left out: {text[:200]!r}. Pass a template of your own, 'USER: {{content}} ASSISTANT:'."
                )
            place = found + len(wanted)
        pictures = sum(isinstance(part, Clip) for part in said)
        if text.count(self.word) != pictures:
            found = text.count(self.word)
            raise DataError(
                f"Expected the word {self.word!r} once for each of {pictures} pictures, found it {found} times; leave "
                "it out of questions and subtitles."
            )

    def _processed(self, text: str, clips: Sequence[Clip]) -> Any:
        if self.takes_video:
            try:
                return self.processor(
                    text=[text],
                    videos=[clip.frames for clip in clips],
                    video_metadata=[clip.metadata for clip in clips],
                    do_sample_frames=False,
                    return_tensors="pt",
                )
            except ValueError as error:
                counts = [len(clip.seconds) for clip in clips]
                if len(set(counts)) == 1:
                    raise
                raise DataError(
                    f"Expected clips of equally many frames in a prompt, found {counts}, which this processor cannot "
                    "lay side by side; divide them into clips of one frame each (part_of)."
                ) from error
        words = text.split(self.word)
        for clip, word in zip(reversed(clips), range(len(words) - 1, 0, -1), strict=True):
            words[word] = self.word * len(clip.seconds) + words[word]
        return self.processor(
            text=["".join(words)], images=[[frame for clip in clips for frame in clip.frames]], return_tensors="pt"
        )

    def _tokens_behind(self, placeholder: int, text: str) -> list[int]:
        """Tokens of what stands behind a picture: some tokenizers begin a text of its own in another way."""
        word = self.tokenizer.convert_ids_to_tokens(placeholder)
        ids = self.tokenizer(word + text, add_special_tokens=False)["input_ids"]
        if not ids or ids[0] != placeholder:
            raise ConfigError(
                f"Expected {word!r} to be one token of the tokenizer, {placeholder}, found {ids[:4]}; processor and "
                "model differ."
            )
        return ids[1:]

    def _check_size(self, beside: Mapping[str, Any]) -> None:
        """A processor made from defaults gives 224 pixels to a tower of 336."""
        size = getattr(getattr(self.model.config, "vision_config", None), "image_size", None)
        found = _shape(beside)
        if isinstance(size, int) and self._grids(beside) is None and found != (size, size):
            raise ConfigError(
                f"Expected frames of {size} x {size} pixels, as the model's tower was trained on, found a processor "
                f"that makes {found[0]} x {found[1]}; load the one saved beside the model (a processor made from "
                "defaults has another size)."
            )

    def _grids(self, beside: Mapping[str, Any]) -> list[tuple[int, int, int]] | None:
        """Steps in time, rows and columns of tokens, where the processor says them (Qwen-VL)."""
        found = next((beside[name] for name in ("video_grid_thw", "image_grid_thw") if name in beside), None)
        if found is None:
            return None
        merged = self.model.config.vision_config.spatial_merge_size
        return [(times, rows // merged, columns // merged) for times, rows, columns in found.tolist()]

    def _positions(self, inputs: Mapping[str, Any], end: int) -> Int[Tensor, "dimensions tokens_and_next"] | None:
        """By the model's own rule, where it has one."""
        rule = getattr(self.model.base_model, "get_rope_index", None)
        if rule is None:
            return None
        cut = {name: inputs[name][:, : end + 1] for name in ("input_ids", "mm_token_type_ids") if name in inputs}
        positions, _ = rule(**{**{name: inputs[name] for name in inputs if name not in TEXT}, **cut})
        return positions[:, 0]


def _shape(beside: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the pixels that the tower sees; 1 and 1 where they come as patches."""
    pixels = next(beside[name] for name in ("pixel_values_videos", "pixel_values") if beside.get(name) is not None)
    tensor = torch.as_tensor(pixels)
    return (int(tensor.shape[-2]), int(tensor.shape[-1])) if tensor.dim() >= 4 else (1, 1)
