"""Questions about videos under a policy: what is seen is encoded once, read once, and asked about often.

The loop is that of text (`modalities.language.reading`): contexts, then questions, then greedy answers or scores, with
every policy that text has. Only what feeds the rows is another: it puts features in the place of placeholder tokens,
and positions as the model counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from modalities.language.batch import Batch
from modalities.language.prompts import Group, Prompt
from modalities.language.reading import Answer, Costs, Finished, Look
from modalities.language.reading import read as read_prompts
from modalities.vision.features import Features, FeatureStore, joined
from modalities.vision.prompts import Scene, ScenePrompt
from namm.errors import AttachError, DataError
from namm.memory import Memory
from namm.policies import Policy


@dataclass(frozen=True)
class Reading:
    """What came of a batch of questions."""

    answers: tuple[Answer, ...]
    """One a prompt, in their order; `Answer.kept` holds the positions held when the question came."""
    costs: Costs
    """Of prefill and decoding."""
    vision_seconds: float
    """Encoding pictures in this call; 0 where the store had all of them."""


class SceneBatch(Batch):
    """Rows that begin with pictures."""

    def __init__(
        self,
        model: PreTrainedModel,
        memory: Memory,
        chunk: int | None,
        prompts: Sequence[Prompt],
        store: FeatureStore,
    ) -> None:
        """No tokens yet.

        Args:
            model: Attached.
            memory: What it is attached with.
            chunk: Most columns a forward call.
            prompts: What the rows begin with.
            store: Where features are.
        """
        super().__init__(model, memory, chunk)
        self.store = store
        self.scenes = [_scene(prompt) for prompt in prompts]
        self.used = [0] * len(self.scenes)

    def positions(self, counted: Int[Tensor, "rows columns"]) -> Int[Tensor, "*dimensions rows columns"]:
        """As the model counts: a picture's tokens by time, row and column, text after it from the largest on."""
        own = [scene.positions for scene in self.scenes]
        if all(found is None for found in own):
            return counted
        dimensions = next(found.shape[0] for found in own if found is not None)
        rows = [
            row.expand(dimensions, -1) if found is None else _continued(found.cpu(), row)
            for found, row in zip(own, counted, strict=True)
        ]
        return torch.stack(rows, dim=1)

    def beside(self, ids: Int[Tensor, "rows columns"], real: Bool[Tensor, "rows columns"]) -> dict[str, Any]:
        """Features in the place of the placeholders of these columns; one that the model generates is a word."""
        parts: list[Features] = []
        strays = 0
        for row, scene in enumerate(self.scenes):
            count = int(((ids[row] == scene.placeholder) & real[row]).sum())
            begin, total = self.used[row], scene.pictures
            if not count:
                continue
            if begin == total:
                strays += 1
                continue
            if begin + count > total:
                raise AttachError(
                    f"Expected {total} tokens of pictures in a row, found {begin + count}: whoever repeats them (kvzip "
                    "reads the context twice) is not known here."
                )
            parts.append(self.store.of(scene.inputs, scene.key).rows(begin, begin + count))
            self.used[row] += count
        if not parts:
            return {}
        if strays:
            raise DataError(
                "Expected pictures to be read before anything is generated, found rows of both; feed apart."
            )
        return {"mm_encoder_outputs": joined(parts, self.model)}

    def select(self, rows: Sequence[int], identities: Int[Tensor, " rows"] | None = None) -> None:
        """See Batch."""
        super().select(rows, identities)
        self.scenes = [self.scenes[row] for row in rows]
        self.used = [self.used[row] for row in rows]


def _identity(prompt: ScenePrompt) -> tuple[object, ...]:
    """What prompts share that can be read once: pictures, tokens, and the number for random draws."""
    return prompt.scene.key, prompt.context, prompt.scene.number


def _scene(prompt: Prompt) -> Scene:
    if not isinstance(prompt, ScenePrompt):
        raise DataError(f"Expected prompts of scenes (Scene.prompt), found a {type(prompt).__name__}.")
    return prompt.scene


def _continued(
    own: Int[Tensor, "dimensions tokens_and_next"], counted: Int[Tensor, " columns"]
) -> Int[Tensor, "dimensions columns"]:
    """Positions of a row's columns, from how many tokens came before each; text counts on, as in `generate`.

    Args:
        own: Of the scene's tokens, and of the first one behind them.
        counted: Tokens before each column.
    """
    known = own.shape[1] - 1
    behind = (counted - known + own[:1, known]).expand(own.shape[0], -1)
    return torch.where(counted < known, own[:, counted.clamp_max(known)], behind)


def batches_of(prompts: Sequence[ScenePrompt], rows: int) -> list[list[int]]:
    """Places of prompts in batches for `read`: questions of one scene together, its pictures read once.

    Args:
        prompts: In the order of the data.
        rows: Most prompts in a batch; a scene with more questions is read again for the rest.
    """
    by_scene: dict[tuple[object, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_scene.setdefault(_identity(prompt), []).append(place)
    batches: list[list[int]] = []
    for places in by_scene.values():
        for start in range(0, len(places), rows):
            part = places[start : start + rows]
            if batches and len(batches[-1]) + len(part) <= rows:
                batches[-1] += part
            else:
                batches.append(part)
    return batches


def read(
    model: PreTrainedModel,
    policy: Policy,
    prompts: Sequence[ScenePrompt],
    store: FeatureStore,
    finished: Finished = lambda tokens: False,
    chunk: int | None = None,
    traced: bool = False,
    look: Look | None = None,
) -> Reading:
    """Reads one batch of questions.

    Args:
        model: A vision-language model.
        policy: Governs the cache of its language model.
        prompts: The batch, of one scene or several; those of one scene share what was read of it.
        store: Where pictures' features are kept; shared over calls, policies and questions.
        finished: Ends an answer.
        chunk: Most columns a forward call; None reads a part in one. Changes no result.
        traced: Whether kept positions are wanted.
        look: Called when the questions come.

    Raises:
        AttachError: The model cannot be driven exactly, or the policy repeats the context (kvzip).
        DataError: There is no prompt.
    """
    if not prompts:
        raise DataError("Expected at least one prompt to read, found none.")
    if policy.foresees == "repetition":
        raise AttachError(
            f"The policy {policy.name!r} reads the context a second time, and how pictures are to be repeated is not "
            "known; choose another one (docs/policies.md)."
        )
    before = store.seconds
    for prompt in prompts:
        store.of(prompt.scene.inputs, prompt.scene.key)
    vision_seconds = store.seconds - before
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(_identity(prompt), []).append(place)
    answers, costs = read_prompts(
        model,
        policy,
        prompts,
        [
            Group(tuple(members), len(prompts[members[0]].context), prompts[members[0]].scene.number)
            for members in groups.values()
        ],
        finished,
        chunk,
        frozenset(range(len(prompts))) if traced else frozenset(),
        make_batch=partial(_make, store),
        look=look,
    )
    return Reading(tuple(answers[place] for place in range(len(prompts))), costs, vision_seconds)


def _make(
    store: FeatureStore, model: PreTrainedModel, memory: Memory, chunk: int | None, prompts: Sequence[Prompt]
) -> Batch:
    return SceneBatch(model, memory, chunk, prompts, store)
