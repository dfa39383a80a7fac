"""The weights and sizes of a Decision Transformer's folder, read without executing anything in it.

Published folders differ: `config.json` was written by one of many releases of transformers or by a trainer, tensors may
carry a wrapper's prefix, buffers of older releases, or lie in shards. All that is understood; what cannot be the model
that the configuration describes is refused by name. Pickled weights are never opened: the error holds the command that
converts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from namm.errors import CheckpointError
from namm.typed import Count, Origin, Positive, read_json, typed

if TYPE_CHECKING:
    from transformers import DecisionTransformerModel

OBSOLETE_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$")
"""Causal masks that older releases of transformers stored in checkpoints."""
UNUSED = re.compile(r"(predict_state|predict_return)\.|encoder\.wte\.")
"""Parts that do not act; a checkpoint may lack them."""
LANDMARK = "embed_timestep.weight"
"""A tensor that every Decision Transformer has once: what stands before its name is a wrapper's prefix."""
SHAPING: Mapping[str, Any] = MappingProxyType(
    dict.fromkeys(("state_dim", "act_dim", "hidden_size", "max_ep_len", "vocab_size", "n_positions", "n_layer"), Count)
    | dict.fromkeys(("n_head", "n_inner"), Count)
    | dict.fromkeys(("action_tanh", "scale_attn_weights", "scale_attn_by_inverse_layer_idx"), bool)
    | {"reorder_and_upcast_attn": bool, "activation_function": str, "layer_norm_epsilon": Positive}
)
"""The fields of config.json that shape the model, and what each of them holds."""
TABLES = ("max_ep_len", "n_positions", "vocab_size")
"""Of these, those that only say how long a table is: the table itself knows better."""
WINDOW = 20
"""Steps of the published Decision Transformers' window."""
CONVERT = (
    'python -c "from transformers import DecisionTransformerModel as Model; '
    "Model.from_pretrained('{source}').save_pretrained('{target}')\""
)
"""Command that rewrites pickled weights; transformers reads them without running what they hold."""


def load_decision_transformer(folder: Path) -> DecisionTransformerModel:
    """The stock `DecisionTransformerModel` of a folder, every tensor checked: name, shape, finite values.

    Of `config.json` only what shapes the model is used, so fields of other releases or of its trainer do not matter;
    a size that it leaves out is read off the tensors.

    Raises:
        CheckpointError: `config.json` or the weights are missing, damaged, or of another model.
    """
    transformers = import_transformers()
    from huggingface_hub.errors import StrictDataclassError

    settings = read_config(folder)
    tensors = read_tensors(folder)
    read_off = _sizes(tensors)
    origin = Origin(str(folder / "config.json"), CheckpointError, "correct it, or copy the file again")
    given = {name: kind for name, kind in SHAPING.items() if settings.get(name) is not None}
    said = {name: typed(settings[name], kind, name, origin) for name, kind in given.items()}
    tables = {name: read_off[name] for name in TABLES if name in read_off}
    sizes = {**read_off, **said, **tables}
    try:
        config = transformers.DecisionTransformerConfig(**sizes, bos_token_id=None, eos_token_id=None)
        model = transformers.DecisionTransformerModel(config)
    except (StrictDataclassError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"expected the sizes of a Decision Transformer in {folder / 'config.json'}, found {sizes}, which do not "
            f"make one ({' '.join(str(error).split())}); copy the file again"
        ) from error
    expected = model.state_dict()
    missing = sorted(name for name in expected.keys() - tensors.keys() if not UNUSED.match(name))
    extra = sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"expected the tensors of the model that config.json describes in {folder}, missing {missing[:3]} "
            f"({len(missing)}), unknown {extra[:3]} ({len(extra)}); the two files belong to different models"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(expected[name].shape)}, found {tuple(value.shape)}"
            raise CheckpointError(
                f"expected {name} of shape {shapes} in the weights of {folder}: config.json belongs to another model, "
                "or a size in it is wrong"
            )
    model.load_state_dict({**expected, **tensors})
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a folder's `config.json`.

    Raises:
        CheckpointError: It is missing, damaged, or of another kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"expected config.json in {folder}, found none; save the model with save_pretrained")
    settings = read_json(path)
    kind = settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__
    if kind != "decision_transformer":
        raise CheckpointError(f"expected a decision_transformer in {path}, found {kind!r}; choose another")
    return settings


def native_window(folder: Path) -> int:
    """Steps that the model of a folder was trained to see: `max_length` of its config.json, else 20 as published.

    transformers 5 drops `max_length` when it reads a configuration, so the file itself is asked.

    Raises:
        CheckpointError: It is no number of steps.
    """
    steps = read_config(folder).get("max_length")
    if steps is None:
        return WINDOW
    origin = Origin(str(folder / "config.json"), CheckpointError, "correct it or leave it out")
    return typed(steps, Count, "max_length", origin)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: `model.safetensors`, or the shards that its index names.

    Raises:
        CheckpointError: There are none, or the index is damaged.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            shards = [folder / Path(name).name for name in names]
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"expected a weight_map in {index}, found {error!r}; copy it again") from error
        lost = [shard.name for shard in shards if not shard.is_file()]
        if lost or not shards:
            raise CheckpointError(f"expected the shards that {index.name} names in {folder}, missing {lost}")
        return shards
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    found = f"only {', '.join(pickled)}, which is a pickle and never opened here" if pickled else "none"
    source = hub_id(folder) or folder
    target = str(source).rpartition("/")[2] + "-safetensors"
    raise CheckpointError(
        f"expected model.safetensors in {folder}, found {found}. If you trust where it comes from, convert it once and "
        f"pass the new folder:\n  {CONVERT.format(source=source, target=target)}"
    )


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder's weights, checked to be finite; without a wrapper's prefix and obsolete buffers.

    Raises:
        CheckpointError: A file is missing, damaged, or holds NaN.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            found = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            damage = f"a damaged file ({error})"
            raise CheckpointError(f"expected tensors in {path}, found {damage}; copy it again") from error
        for name, value in found.items():
            if not torch.isfinite(value).all():
                raise CheckpointError(f"expected finite numbers in {name} of {path}, found NaN; copy it again")
        tensors |= found
    prefix = next((n.removesuffix(LANDMARK) for n in tensors if n.endswith(LANDMARK)), "")
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not OBSOLETE_BUFFERS.search(name)}


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """What the shapes of the tensors say about the model; what they do not say is left to the configuration."""
    places = {
        "state_dim": ("embed_state.weight", 1),
        "act_dim": ("embed_action.weight", 1),
        "hidden_size": ("embed_state.weight", 0),
        "max_ep_len": (LANDMARK, 0),
        "n_positions": ("encoder.wpe.weight", 0),
        "vocab_size": ("encoder.wte.weight", 0),
        "n_inner": ("encoder.h.0.mlp.c_fc.weight", 1),
    }
    sizes = {
        size: tensors[name].shape[axis]
        for size, (name, axis) in places.items()
        if name in tensors and tensors[name].ndim
    }
    layers = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.h\.(\d+)\.", name))}
    return {**sizes, "n_layer": len(layers)} if layers else sizes


def hub_id(folder: Path) -> str | None:
    """Id of the Hub repository whose snapshot a folder is."""
    match = re.search(r"models--([\w.-]+?)--([\w.-]+)/snapshots/", folder.as_posix())
    return f"{match[1]}/{match[2]}" if match else None


def import_transformers() -> Any:
    """The transformers package, also beside a torchvision that does not fit this torch."""
    from modalities.huggingface.torchvision import cure_torchvision

    cure_torchvision()
    import transformers

    return transformers
