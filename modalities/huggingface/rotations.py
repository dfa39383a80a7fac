"""How each layer of a model turns its queries and keys by position, found out by trying.

Frequencies are read off the model; whether they are halves or neighbours, where they begin, which set a layer uses and
whether it uses any is tried: a model that reads one token over and over computes, in every layer, the same key at every
place, but for the turning. What turns the keys back to the same is how the layer encodes positions; where nothing does,
that is said, since a policy that turned them wrongly would judge noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from modalities.huggingface.attach import attach
from namm.errors import AttachError
from namm.policies import make_policy
from namm.rotation import UNTURNED, Rotation

PLACES = 15
"""How often the token is read: before any layer of bounded reach, however short, has let go what it read first."""

CLOSE = 0.05
"""Largest difference between keys that count as the same, in parts of their size: bf16 leaves some thousandths."""

SIGNS = ("rope_parameters", "rope_scaling", "rope_theta", "rotary_dim", "rotary_pct", "partial_rotary_factor")
"""Of which a configuration has one where positions are turned."""

USUAL_BASE = 10_000.0
"""Of rotary frequencies, in models that do not say theirs."""

MOVING = ("dynamic", "longrope")
"""Kinds of scaling under which frequencies depend on the length of the text."""


@torch.no_grad()
def rotations_of(model: PreTrainedModel) -> list[Rotation]:
    """The rotation of every layer.

    Args:
        model: What :func:`modalities.attach` is given.

    Raises:
        AttachError: Positions are turned in a way that is not known, or that depends on the text.
    """
    config = model.config.get_text_config()
    layers = config.num_hidden_layers
    found = _frequencies(model)
    if not found and not any(getattr(config, name, None) for name in SIGNS):
        return [UNTURNED] * layers
    _check_fixed(model, config)
    keys = _keys_of_one_token(model)
    rotations = [UNTURNED] * layers
    for layer, states in keys.items():
        fits = {one: _apart(one, states) for one in [UNTURNED, *_candidates(found, config, states.shape[-1])]}
        best = min(fits, key=lambda one: fits[one])
        if fits[best] > CLOSE:
            raise AttachError(
                f"Layer {layer} of {type(model).__name__} encodes positions in its keys in a way that is not known: "
                f"turned back, keys of one token differ by {fits[best]:.2f} of their size. Use a policy that does not "
                "judge queries or keys without their positions (sink_window: without renumber), or call "
                "memory.tell_rotations."
            )
        rotations[layer] = best
    return rotations


def _frequencies(model: PreTrainedModel) -> list[Float[Tensor, " pairs"]]:
    """All sets of rotary frequencies in a model, each once."""
    found: list[Tensor] = []
    for name, buffer in model.named_buffers():
        own = name.rpartition(".")[2]
        known = own.endswith("inv_freq") and "original" not in own and buffer.dim() == 1
        if known and not any(torch.equal(buffer.float().cpu(), other) for other in found):
            found.append(buffer.float().cpu())
    return found


def _candidates(found: list[Float[Tensor, " pairs"]], config: object, width: int) -> list[Rotation]:
    """All rotations that keys of this width may have."""
    pairs = (getattr(config, "rotary_dim", None) or 0) // 2
    if pairs:  # models that make their tables by themselves
        found = [*found, USUAL_BASE ** -(torch.arange(pairs) / pairs)]
    fitting = [frequencies for frequencies in found if 2 * frequencies.shape[0] <= width]
    return [
        Rotation(frequencies, interleaved, begins)
        for frequencies in fitting
        for interleaved in (False, True)
        for begins in sorted({0, width - 2 * frequencies.shape[0]})
    ]


def _keys_of_one_token(model: PreTrainedModel) -> Mapping[int, Float[Tensor, "kv_heads places head_dim"]]:
    """Keys of one token at many places, by layer."""
    table = cast("Tensor", model.get_input_embeddings().weight)  # a module's attributes are typed as tensor or module
    draw = torch.Generator().manual_seed(0)
    token = int(torch.randint(table.shape[0] // 4, table.shape[0], (1,), generator=draw))
    ids = torch.full((1, PLACES), token, device=table.device)
    with attach(model, make_policy("full")) as memory:
        model(input_ids=ids, use_cache=True)
        return {index: layer.cache.tail_keys[0, :, :PLACES].float().cpu() for index, layer in memory.layers.items()}


def _apart(rotation: Rotation, keys: Float[Tensor, "kv_heads places head_dim"]) -> float:
    """How far keys lie apart when they are turned back, in parts of their size."""
    raw = rotation.turned(keys, -torch.arange(keys.shape[1]))
    return float((raw - raw[:, :1]).norm(dim=-1).amax() / keys.norm(dim=-1).amax().clamp_min(1e-12))


def _check_fixed(model: PreTrainedModel, config: object) -> None:
    """Raises AttachError for positions that are more than a number a token, or whose frequencies change."""
    kinds = {str(getattr(module, "rope_type", "default")) for module in model.modules()}
    sections = [getattr(config, name, None) or {} for name in ("rope_parameters", "rope_scaling")]
    if kinds & set(MOVING) or any("mrope_section" in section for section in sections):
        raise AttachError(
            f"{type(model).__name__} encodes positions by {', '.join(sorted(kinds))} rotation whose frequencies depend "
            "on the length of the text, or by several numbers a token; a policy that judges queries or keys without "
            "their positions, or turns keys to others (sink_window with renumber), cannot be used with it. Use one "
            "that does not (docs/policies.md)."
        )
