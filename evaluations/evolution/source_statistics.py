"""What a NAMM's features are standardised with while it evolves: measured on a source, and varied on purpose.

Statistics, more than parameters, decide whether a NAMM survives a change of model. So a fitness may show each
generation other ones: the source's pooled over layers (as deployed), its own layer by layer (as a target's would be),
each sequence's, or frozen ones multiplied by random factors, as if another model attended more or less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluations.tasks.recall.tasks import get_task, train_seed
from modalities.huggingface.attach import attach
from namm import NAMM
from namm.calibration import Calibration
from namm.features import FeatureStatistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def source_statistics(
    model: PreTrainedModel,
    namm: NAMM,
    tasks: Sequence[str],
    context_tokens: int,
    interval: int,
    prompts: int = 32,
    pooled: bool = True,
) -> FeatureStatistics:
    """Feature statistics of a source model: one full-cache pass over training prompts.

    Args:
        model: The source.
        namm: Whose features are measured.
        tasks: Recall tasks whose prompts are read.
        context_tokens: Their length.
        interval: Tokens between updates.
        prompts: Prompts a task.
        pooled: One pair for all layers, as a checkpoint holds; otherwise one a layer, as a target's are.
    """
    calibration = Calibration(namm, interval, model.config.num_hidden_layers)
    with attach(model.base_model, calibration):
        for index, name in enumerate(tasks):
            context = get_task(name).sample(prompts, context_tokens, train_seed(index)).context
            model.base_model(input_ids=context.to(model.device), use_cache=True)
    return calibration.statistics(pooled=pooled)


def random_factors(draw: np.random.Generator, layers: int, bins: int, spread: float) -> Float[Tensor, "layers bins"]:
    """Log-normal factors for a model's frozen statistics: one common to all, one a layer and one a bin, multiplied.

    Args:
        draw: Source of randomness.
        layers: Layers of the model.
        bins: Frequency bins.
        spread: Standard deviation of each factor's logarithm; a third of the variance is common to all.
    """
    common, layer, bin_ = draw.normal(size=1), draw.normal(size=(layers, 1)), draw.normal(size=(1, bins))
    logarithm = spread / math.sqrt(3) * (common + layer + bin_)
    return torch.from_numpy(np.exp(logarithm)).float()


def rescaled(statistics: FeatureStatistics, factors: Float[Tensor, "layers bins"]) -> FeatureStatistics:
    """The statistics of a model that attends as much more strongly, layer by layer and bin by bin."""
    return FeatureStatistics(statistics.mean * factors, statistics.deviation * factors)
