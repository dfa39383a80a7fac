"""A training step's batch: every row is one clip and many questions, each of which sees the clip and itself only.

One pass over the clip answers a dozen questions. They are laid one after another, a mask hides them from each other,
and each begins at the position after the clip: for the model it is as if each were asked alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from checkpoints.recipes.video_gallery import TOKENS_PER_FRAME, Asked, Features, TrainingClip
from checkpoints.recipes.video_language import PROMPT
from checkpoints.recipes.video_vocabulary import END, VIDEO, make_tokenizer
from evaluations.tasks.video.drawing import SHAPES

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Rows, filled up at their end."""

    ids: Int64[Tensor, "rows tokens"]
    """Token ids; the video token where frames go."""
    features: Features
    """What the tower saw, row after row."""
    positions: Int64[Tensor, "rows tokens"]
    mask: Bool[Tensor, "rows 1 tokens tokens"]
    """True where a token may look."""
    targets: Int64[Tensor, "rows tokens"]
    """The token to predict after each one; -100 where nothing is asked."""
    kinds: Int64[Tensor, "rows tokens"]
    """Index into `kind_names` where an answer is asked, else -1."""
    kind_names: tuple[str, ...]
    earlier: Int64[Tensor, "squares 3"]
    """Row, token and index of the shape before: what each square that shows a later one has to bring to mind."""


def seen(model: nn.Module, features: Features) -> Float[Tensor, "tokens width"]:
    """Pooling and projector, square by square: the pooling's convolution as the product that it is."""
    pool = model.model.vision_resampler.pool
    return model.model.multi_modal_projector(functional.linear(features, pool.weight.flatten(1), pool.bias))


class Layout:
    """Words to ids, and rows to batches."""

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()
        self.video, self.end = (self.tokenizer.convert_tokens_to_ids(word) for word in (VIDEO, END))
        before, self.after = PROMPT.split(VIDEO)
        self.before = self.tokenizer(before).input_ids
        self.known: dict[str, list[int]] = {}

    def _question(self, asked: Asked) -> list[int]:
        if asked.text not in self.known:
            text = self.after.format(question=asked.text)
            self.known[asked.text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return [*self.known[asked.text], self.tokenizer.convert_tokens_to_ids(asked.answer), self.end]

    def batch(self, clips: list[TrainingClip], questions: list[list[Asked]]) -> Batch:
        """Lays out clips, each with its questions."""
        names = tuple(sorted({asked.kind for row in questions for asked in row}))
        rows = [self._row(clip, asked, names) for clip, asked in zip(clips, questions, strict=True)]
        tokens = max(len(row[0]) for row in rows)
        ids, positions, blocks, targets, kinds = (
            torch.from_numpy(
                np.stack([np.pad(row[i], (0, tokens - len(row[i])), constant_values=fill) for row in rows])
            )
            for i, fill in enumerate((self.end, 0, -1, IGNORED, -1))
        )
        own = blocks[:, :, None] == blocks[:, None, :]
        clip_part = (blocks == 0)[:, None, :]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        mask = ((own | clip_part) & causal)[:, None]
        features = torch.cat([clip.features for clip in clips]).float()
        earlier = [
            (row, len(self.before) + place, list(SHAPES).index(word))
            for row, clip in enumerate(clips)
            for place, word in enumerate(clip.earlier)
            if word is not None
        ]
        before = torch.tensor(earlier, dtype=torch.long).reshape(-1, 3)
        return Batch(ids, features, positions, mask, targets, kinds, names, before)

    def hidden(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, "rows tokens width"], ...]:
        """What the language part makes of the batch: its input and each layer's output, the last one normed."""
        inner = model.model
        embedded = inner.language_model.embed_tokens(batch.ids)
        embedded = embedded.masked_scatter((batch.ids == self.video)[..., None], seen(model, batch.features))
        return inner.language_model(
            inputs_embeds=embedded,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states

    def _row(self, clip: TrainingClip, asked: list[Asked], names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
        begin = len(self.before)
        video = clip.places + begin
        ids = [*self.before, *[self.video] * len(video)]
        positions, blocks = [*range(begin), *video], [0] * len(ids)
        targets, kinds = [IGNORED] * len(ids), [-1] * len(ids)
        after = begin + clip.length * TOKENS_PER_FRAME
        for block, question in enumerate(asked, 1):
            tokens = self._question(question)
            ids += tokens
            positions += range(after, after + len(tokens))
            blocks += [block] * len(tokens)
            targets += [IGNORED] * (len(tokens) - 3) + [tokens[-2], tokens[-1], IGNORED]
            kinds += [-1] * (len(tokens) - 3) + [names.index(question.kind), -1, -1]
        return tuple(np.array(column) for column in (ids, positions, blocks, targets, kinds))
