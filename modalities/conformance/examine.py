"""Does a model keep what a Memory promises? One contract for every adapter, with a verdict to act on.

    python -m modalities.conformance meta-llama/Llama-3.2-1B        # a name on the Hub, or a folder
    python -m modalities.conformance tiny:gemma2                    # a tiny random model of a family
    python -m modalities.conformance package.module:function        # what a function makes, by its own adapter

The clauses are in `modalities.conformance.clauses`; here a model is made their subject, and what became of them a
verdict.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NoReturn

import torch
import tyro
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging

from modalities.base import adapter_of
from modalities.conformance.clauses import (
    BUDGET,
    INTERVAL,
    Check,
    Subject,
    batch_equals_its_members,
    bytes_reported_are_held,
    compared,
    evicting,
    forgetting_equals_masking,
    generation_equals_stock,
    pieces_equal_one_call,
    prompts,
)
from modalities.conformance.tiny_models import tiny_model
from modalities.pretrained import load_config, load_model
from namm.errors import AttachError, CheckpointError, ConfigError, NammError
from namm.memory import Memory
from namm.policies import make_policy
from namm.terminal import any_terminal

__all__ = ["Check", "Subject", "Verdict", "examine", "load", "main", "prompts", "subject_of"]

REFUSED, NOT_EXAMINED = 2, 3
"""Exit status of a model that cannot be attached, and of one that does not load or run by itself."""


@dataclass(frozen=True)
class Verdict:
    """What became of all clauses."""

    subject: str
    checks: list[Check] = field(default_factory=list)
    refused: str | None = None
    """Why the model cannot be attached; then there are no checks."""
    report: str = ""
    """What the memory of the evicting run printed."""
    how: str = ""
    """How its layers are held, in words."""

    @property
    def conforms(self) -> bool:
        """Whether every clause holds."""
        return self.refused is None and bool(self.checks) and all(check.passed for check in self.checks)

    def __str__(self) -> str:
        if self.refused is not None:
            return f"{self.subject}: REFUSED, and nothing was computed wrongly.\n  {self.refused}"
        lines = [
            f"  {'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.detail}{check.note and '; ' + check.note}"
            for check in self.checks
        ]
        failed = [check.name for check in self.checks if not check.passed]
        end = "CONFORMS" if self.conforms else f"DOES NOT CONFORM ({'; '.join(failed)}): do not use its numbers"
        return "\n".join([f"{self.subject}: {end}", *lines])


def subject_of(model: nn.Module, name: str | None = None) -> Subject:
    """A model as its adapter shows it for examination.

    Raises:
        AttachError: No adapter takes it.
    """
    return adapter_of(model).subject(model, name)


def examine(subject: Subject, only: tuple[str, ...] = ()) -> Verdict:
    """Runs every clause of the contract, or those named.

    Raises:
        Nothing that the model raises under a memory: an AttachError of the first call is a refusal, anything later
        is a failed clause. What the stock model raises by itself is passed on.
    """
    ids, mask = prompts(subject)
    stock, _ = subject.run(ids, mask, None)
    before = subject.fingerprint()
    try:
        with subject.attach(make_policy("full", interval=INTERVAL)) as memory:
            kept, _ = subject.run(ids, mask, None)
            seen = memory.seen.tolist()
    except AttachError as error:
        return Verdict(subject.name, refused=str(error))
    checks = [compared("keep-all equals stock", stock, kept, subject.tolerance, mask)]
    checks.append(Check("tokens seen are counted without padding", seen == list(subject.lengths), f"{seen}"))
    clauses: list[tuple[str, Callable[[], Check]]] = [
        ("generate() equals stock", lambda: generation_equals_stock(subject, ids, mask)),
        ("pieces equal one call", lambda: pieces_equal_one_call(subject, ids)),
        ("forgetting equals masking", lambda: forgetting_equals_masking(subject, ids[:2])),
        ("a batch equals its members", lambda: batch_equals_its_members(subject, ids, mask)),
        ("bytes reported are bytes held", lambda: bytes_reported_are_held(subject, ids, mask)),
    ]
    for name, clause in clauses:
        if not only or name in only:
            try:
                checks.append(clause())
            except (NammError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                checks.append(Check(name, False, f"raised {type(error).__name__}: {error}"))
    again, _ = subject.run(ids, mask, None)
    same = torch.equal(stock, again) and subject.fingerprint() == before
    checks.append(Check("the model is as before", same, "outputs, configuration, hooks and attributes compared"))
    with subject.attach(evicting()) as memory:
        subject.run(ids, mask, None)
        report, how = str(memory.report()), "; ".join([_how(memory), *(check.note for check in checks if check.note)])
    return Verdict(subject.name, checks, report=report, how=how)


def _how(memory: Memory) -> str:
    """Which layers the policy governs, and what is special about them."""
    rules = [layer.rule for layer in memory.layers.values()]
    bounded = sorted({str(rule.local).split(" of ")[0] for rule in rules if rule.local is not None})
    count = sum(rule.local is not None for rule in rules)
    widths = {(layer.cache.head_dim, layer.cache.value_dim) for layer in memory.layers.values()}
    facts = [f"{count} of {len(rules)} layers: {' and '.join(bounded)}"] if bounded else []
    facts += ["capped logits"] if any(rule.softcap is not None for rule in rules) else []
    facts += ["learned sinks"] if any(rule.sinks is not None for rule in rules) else []
    facts += [f"values {v} wide, keys {k}" for k, v in sorted(widths) if k != v]
    facts += ["recurrent layers left to transformers"] if memory.report().beside_bytes else []
    return "; ".join(facts) or "all layers alike"


@dataclass(frozen=True)
class Arguments:
    """Checks that a model may be used under a forgetting memory."""

    model: tyro.conf.Positional[str]
    """A folder, a Hub id, FILE.gguf, smollm2, gemma3-270m, ``tiny:FAMILY`` (a random model of a family), or
    ``package.module:function``, which makes a model of any kind that a registered adapter takes."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; only in float32 are small errors told from rounding."""

    device_map: str | None = None
    """Where the weights go, as in transformers (``auto``); None leaves them on the CPU."""

    trust_remote_code: bool = False
    """Whether the folder's own Python files may run."""


def load(arguments: Arguments) -> nn.Module:
    """The model that the arguments name; of pictures and text where it is one.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    dtype = getattr(torch, arguments.dtype)
    options: dict[str, Any] = {"device_map": arguments.device_map}
    trust = {"trust_remote_code": arguments.trust_remote_code}
    try:
        if arguments.model.startswith("tiny:"):
            model = tiny_model(arguments.model.removeprefix("tiny:")).to(dtype)
            return model if arguments.device_map is None else _placed(model, {"dtype": dtype, **options})
        if ":" in arguments.model and not Path(arguments.model).exists():
            return _made(arguments.model).to(dtype)
        config = load_config(arguments.model, **trust)
        of_text = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map")
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not of_text:
            return AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=dtype, **options, **trust)
        return load_model(arguments.model, dtype, **options, **trust)
    except Exception as error:  # damaged files, missing packages, devices that are not there: each in its own words
        raise CheckpointError(f"{arguments.model}: could not be loaded. {' '.join(str(error).split())}") from error


def _placed(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    """A model where a device map puts it, in the way of any other."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, **options)


def _made(name: str) -> nn.Module:
    """What `package.module:function` gives."""
    try:
        model = resolve_name(name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"expected package.module:function that makes a model, found {name!r} ({error}); run from where the "
            "package is, or install it"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"expected {name} to give a torch module, found {type(model).__name__}; return the model")
    return model


def main() -> None:
    """The command; exit status 0 if the model conforms, 1 if it does not, 2 if it is refused, 3 if it was not examined.

    That is a model that could not be loaded or fails by itself: nothing is said of it.
    """
    logging.set_verbosity_error()
    with any_terminal():
        arguments = tyro.cli(Arguments, prog="python -m modalities.conformance")
        try:
            subject = subject_of(load(arguments), arguments.model)
        except CheckpointError as error:
            _not_examined(str(error))
        try:
            subject.run(*prompts(subject), None)
        except Exception as error:
            _not_examined(f"{arguments.model}: the stock model does not run. {type(error).__name__}: {error}")
        verdict = examine(subject)
        print(verdict)
        if verdict.report:
            print(f"What a memory of {BUDGET} slots held of it:\n{verdict.report}")
        sys.exit(0 if verdict.conforms else REFUSED if verdict.refused else 1)


def _not_examined(reason: str) -> NoReturn:
    print(f"{reason}\nNOT EXAMINED", file=sys.stderr)
    sys.exit(NOT_EXAMINED)
