"""A model by what a user writes: a Hub id, a folder, a tiny random model of a family, a function of their own."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from modalities.base import Adapter
from modalities.conformance.tiny_models import tiny_model
from modalities.pretrained import load_config, load_model
from modalities.pretrained.loading import moved
from namm.errors import CheckpointError, ConfigError, NammError, UnknownNameError, did_you_mean

TINY = "tiny:"


def load(
    name: str, dtype: torch.dtype = torch.float32, device_map: str | None = None, trust_remote_code: bool = False
) -> nn.Module:
    """The model of a name; of pictures and text where it is one.

    Args:
        name: A folder, a Hub id, FILE.gguf, a published name, `tiny:FAMILY`, or `module:function` or
            `file.py:function`, which gives a model.
        dtype: Of the weights.
        device_map: Where they go, as in transformers; None leaves them on the CPU.
        trust_remote_code: Whether the folder's own Python files may run.

    Raises:
        CheckpointError: It cannot be loaded.
        ConfigError: There is no such function, none is named, it raises, or it gives no model.
        UnknownNameError: There is no such family.
    """
    options: dict[str, Any] = {"device_map": device_map}
    trust = {"trust_remote_code": trust_remote_code}
    if ":" in name and not name.startswith(TINY) and not Path(name).exists():
        return _made(name).to(dtype)
    if name.endswith(".py"):
        raise ConfigError(f"expected a function of {name} that makes a model, found the file alone; write {name}:NAME")
    try:
        if name.startswith(TINY):
            model = moved(tiny_model(name.removeprefix(TINY)), dtype)
            return model if device_map is None else _placed(model, {"dtype": dtype, **options})
        config = load_config(name, **trust)
        of_text = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map")
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not of_text:
            return AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **options, **trust)
        return load_model(name, dtype, **options, **trust)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} A model that no name stands for is examined by a function of yours: file.py:function."
        ) from error
    except NammError:
        raise
    except Exception as error:  # damaged files, missing packages, devices that are not there: each in its own words
        raise CheckpointError(f"{name}: could not be loaded. {' '.join(str(error).split())}") from error


def _placed(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    """A model where a device map puts it, in the way of any other."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, **options)


def load_adapter(name: str) -> type[Adapter]:
    """The adapter of `module:Class` or `file.py:Class`.

    Raises:
        ConfigError: There is none.
    """
    found = _found(name, "a subclass of Adapter")
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise ConfigError(f"expected {name} to be a subclass of modalities.Adapter, found {found!r}; name the class")
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(f"expected an adapter with {', '.join(missing)}, found {name} without; write what it lacks")
    return found


def _made(name: str) -> nn.Module:
    """What `module:function` gives, or the model itself."""
    found = _found(name, "a function that makes a model")
    try:
        model = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # of the user's own code
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if place.filename == __file__ else f" ({place.filename}, line {place.lineno})"
        raise ConfigError(
            f"expected {name} to make a model, found that it raises {type(error).__name__}: "
            f"{' '.join(str(error).split())}{where}; mend it, or name a function without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected {name} to give a torch module, found {type(model).__name__}; return the model")
    return model


def _found(name: str, wanted: str) -> Any:
    """What `module:name` or `file.py:name` names; modules are also found in the folder that one is in."""
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            module = module_of(Path(place))
        else:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
    except NammError:
        raise
    except Exception as error:  # whatever importing the user's own code raises
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            f"expected {wanted} at {name!r} (module:name or file.py:name), found {told}; run from where the module is, "
            "or install it"
        ) from error
    if not hasattr(module, attribute):
        own = [key for key, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        raise UnknownNameError(f"{place} has no {attribute!r}, expected {wanted}. {did_you_mean(attribute, own)}")
    return getattr(module, attribute)


def module_of(path: Path) -> ModuleType:
    """The module that a file holds, run once.

    Raises:
        ConfigError: There is no such file.
    """
    name = f"namm_check_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path.resolve()):
        return sys.modules[name]
    if not path.is_file():
        raise ConfigError(f"expected a Python file at {path}, found none; check the path")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
