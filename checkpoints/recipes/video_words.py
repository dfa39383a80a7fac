"""The words that name what a frame shows, by category, and a head that reads them off the squares of a picture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from evaluations.tasks.video.drawing import COLOURS, NUMBERS, SHAPES
from evaluations.tasks.video.easy_vqa import VqaImage
from evaluations.tasks.video.rendered import BOARD, Scene

COPIES = 4
"""Copies of a shape at most, one more than clips show."""

VQA_SHAPES = ("circle", "rectangle", "triangle")
VQA_COLOURS = ("red", "green", "blue", "yellow", "brown", "teal", "black", "gray")
CATEGORIES = (tuple(SHAPES), tuple(COLOURS), NUMBERS[1 : COPIES + 1], NUMBERS, VQA_SHAPES, VQA_COLOURS)
"""Words among which one fits; each frame knows some of the categories."""

IGNORED = -100


def fits(shown: Scene | VqaImage) -> tuple[int, ...]:
    """Which word of each category fits; -100 for none."""
    none = IGNORED
    if isinstance(shown, VqaImage):
        shape = VQA_SHAPES.index(shown.shape) if shown.shape else none
        return none, none, none, none, shape, VQA_COLOURS.index(shown.colour) if shown.colour else none
    if shown.number is not None:
        return none, none, none, shown.number, none, none
    if shown.shape is None or shown.colour is None:
        return (none,) * len(CATEGORIES)
    return list(SHAPES).index(shown.shape), list(COLOURS).index(shown.colour), shown.copies - 1, none, none, none


def naming_loss(
    scores: list[Float[Tensor, "squares words"]], wanted: Int64[Tensor, "squares categories"]
) -> tuple[Tensor, list[float]]:
    """The sum of the categories' mean losses, and by category how often the right word fits best."""
    losses, right = [], []
    for fit, word in zip(scores, wanted.T, strict=True):
        has = word >= 0
        losses.append(functional.cross_entropy(fit[has], word[has], reduction="sum") / max(1, int(has.sum())))
        right.append((fit[has].argmax(1) == word[has]).float().mean().item())
    return torch.stack(losses).sum(), right


class SquaresHead(nn.Module):
    """Reads words off the four patches of each square, as the video model's pooling and projector will."""

    def __init__(self, width: int, seed: int) -> None:
        """Fresh weights, a function of `seed`."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pool = nn.Conv2d(width, 2 * width, 2, 2)
            self.read = nn.Linear(2 * width, sum(map(len, CATEGORIES)))

    def loss(
        self,
        patches: Float[Tensor, "frames patches width"],
        wanted: Int64[Tensor, "frames categories"],
        squares: Bool[Tensor, "frames rows columns"],
    ) -> tuple[Tensor, list[float]]:
        """The naming loss of the squares that show something."""
        across = 2 * BOARD
        pooled = self.pool(patches.transpose(1, 2).unflatten(2, (across, across))).permute(0, 2, 3, 1)
        scores = self.read(functional.gelu(pooled[squares]))
        frame = squares.nonzero()[:, 0]
        return naming_loss(list(scores.split([len(words) for words in CATEGORIES], 1)), wanted[frame])
