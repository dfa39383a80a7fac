"""Does a model keep what a Memory promises? One contract for every adapter, with a verdict to act on.

    python -m modalities.conformance meta-llama/Llama-3.2-1B        # a name on the Hub, or a folder
    python -m modalities.conformance tiny:gemma2                    # a tiny random model of a family

Stock outputs are the reference for a memory that keeps everything; for one that forgets it is attention written out
plainly, over every token ever seen, with the forgotten ones masked.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from modalities.huggingface import attach, cache_name, cache_of
from modalities.shadow import Shadow
from modalities.tiny_models import tiny_model
from namm.errors import AttachError, NammError
from namm.memory import Memory
from namm.policies import Policy, make_policy

INTERVAL = 16
BUDGET = 10
LENGTHS = (41, 58, 33)
"""Tokens of the prompts of a batch; left-padded to the longest."""
STOCK_ERRS = 1e-2
"""From here on a stock model that disagrees with itself (padded and not, in pieces and whole) is no reference."""
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest difference, in units of the largest stock value."""


@dataclass(frozen=True)
class Subject:
    """What is examined: any model, with a way to run it and a way to attach a policy to it."""

    name: str
    run: Callable[[Int[Tensor, "batch tokens"], Int[Tensor, "batch columns"] | None, Any], tuple[Tensor, Any]]
    """New tokens, mask over all columns so far, the last call's cache or None: outputs of the new tokens, cache."""
    attach: Callable[[Policy], AbstractContextManager[Memory]]
    generate: Callable[..., Tensor] | None
    """Stock generation of a Hugging Face model (ids, mask, options); None where there is none."""
    fingerprint: Callable[[], str]
    """Of everything that attaching could leave behind."""
    tokens: Int[Tensor, " vocabulary"]
    """Tokens that mean nothing special."""
    tolerance: float


@dataclass(frozen=True)
class Check:
    """One clause of the contract."""

    name: str
    passed: bool
    detail: str
    note: str = ""
    """What the stock model itself does not do, so that nothing can be compared."""


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


def subject_of(model: PreTrainedModel, name: str | None = None) -> Subject:
    """A Hugging Face model, as it is examined."""
    model.eval()

    def run(ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
        options = {} if cache is None else {cache_name(model) or "cache": cache}
        if mask is not None and takes_positions:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with torch.no_grad():
            output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options)
        value = output.logits if hasattr(output, "logits") else output.last_hidden_state
        try:
            return value.float(), cache_of(output)
        except StopIteration:
            return value.float(), None

    def generate(ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        return model.generate(input_ids=ids, attention_mask=mask, pad_token_id=int(tokens[0]), **options)

    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    config = model.config.get_text_config(decoder=True)
    named = {**config.to_dict(), **model.config.to_dict()}
    special = {value for key, value in named.items() if key.endswith("token_id") and isinstance(value, int)}
    first = min(10, config.vocab_size // 2)
    tokens = torch.tensor([token for token in range(first, config.vocab_size) if token not in special])
    return Subject(
        name=name or type(model).__name__,
        run=run,
        attach=lambda policy: attach(model, policy),
        generate=generate if model.can_generate() else None,
        fingerprint=lambda: _fingerprint(model),
        tokens=tokens.to(model.device),
        tolerance=TOLERANCE.get(model.dtype, 2e-4),
    )


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
    checks = [_compared("keep-all equals stock", stock, kept, subject.tolerance, mask)]
    checks.append(Check("tokens seen are counted without padding", seen == list(LENGTHS), f"{seen}"))
    clauses: list[tuple[str, Callable[[], Check]]] = [
        ("generate() equals stock", lambda: _generation(subject, ids, mask)),
        ("pieces equal one call", lambda: _pieces(subject, ids)),
        ("forgetting equals masking", lambda: _forgetting(subject, ids[:2])),
        ("a batch equals its members", lambda: _members(subject, ids, mask)),
        ("bytes reported are bytes held", lambda: _bytes(subject, ids, mask)),
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
    with subject.attach(_evicting()) as memory:
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


def _evicting(name: str = "random") -> Policy:
    """A policy that lets go early: each head keeps others."""
    return make_policy(name, interval=INTERVAL, budget=BUDGET, protected_last=4)


def prompts(subject: Subject) -> tuple[Int[Tensor, "batch columns"], Int[Tensor, "batch columns"]]:
    """Left-padded prompts of several lengths, and their mask."""
    longest = max(LENGTHS)
    drawn = torch.randint(len(subject.tokens), (len(LENGTHS), longest), generator=torch.Generator().manual_seed(1))
    ids = subject.tokens[drawn.to(subject.tokens.device)]
    mask = torch.arange(longest) >= longest - torch.tensor(LENGTHS)[:, None]
    mask = mask.long().to(ids.device)
    return torch.where(mask.bool(), ids, subject.tokens[0]), mask


def _difference(wanted: Tensor, found: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Largest difference of each token's outputs, in units of the largest value; padding aside."""
    difference = (wanted - found).abs().amax(-1) / wanted.abs().max().clamp_min(1e-6)
    return difference if mask is None else difference.masked_fill(mask[:, -difference.shape[1] :] == 0, 0.0)


def _compared(name: str, wanted: Tensor, found: Tensor, tolerance: float, mask: Tensor | None = None) -> Check:
    """Equal to rounding, padding aside."""
    difference = _difference(wanted, found, mask)
    worst = float(difference.max())
    where = ""
    if not worst <= tolerance:  # also NaN
        row, column = divmod(int((~(difference <= tolerance)).flatten().int().argmax()), difference.shape[1])
        where = f"; first in row {row} at column {column}"
    return Check(name, worst <= tolerance, f"largest difference {worst:.1e} of {tolerance:.0e}{where}")


def _generation(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    name = "generate() equals stock"
    if subject.generate is None:
        return Check(name, True, "this model does not generate")
    differing, note = [], ""
    for kind, options in {
        "greedy": {"do_sample": False},
        "sampling": {"do_sample": True, "top_k": 20},
        "beams": {"do_sample": False, "num_beams": 3},
    }.items():

        def generated(policy: Policy | None, **more: Any) -> Tensor:
            with _attached(subject, policy), torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                return subject.generate(ids, mask, max_new_tokens=8, **more)

        ours = generated(make_policy("full", interval=INTERVAL), **options)
        if not torch.equal(generated(None, **options), ours):
            if torch.equal(generated(None, use_cache=False, **options), ours):
                note = "stock itself errs with its cache, and this is as stock without it"
            else:
                differing.append(kind)
    detail = f"differs: {', '.join(differing)}" if differing else "greedy, sampling, beams"
    return Check(name, not differing, detail, note)


@contextmanager
def _attached(subject: Subject, policy: Policy | None) -> Iterator[None]:
    """With the policy, or stock where there is none."""
    if policy is None:
        yield
    else:
        with subject.attach(policy):
            yield


def _pieces(subject: Subject, ids: Tensor) -> Check:
    """Several calls through the returned cache see the positions that one call sees, also after eviction."""
    name, note = "pieces equal one call", ""
    whole, _ = subject.run(ids, None, None)
    for stops in ((1, 20, 37, 38, ids.shape[1]), (40, *range(41, ids.shape[1] + 1))):
        own = float(_difference(whole, _in_pieces(subject, ids, stops)).max())
        if own <= STOCK_ERRS:
            break
        note = "stock itself errs when fed several tokens after the first call"
    else:
        return Check(name, True, "not asked", "the stock model itself cannot be fed in pieces")
    with subject.attach(_evicting()):
        whole, _ = subject.run(ids, None, None)
        pieces = _in_pieces(subject, ids, stops)
    found = _compared(name, whole, pieces, max(subject.tolerance, 4 * own))
    return Check(name, found.passed, found.detail, note)


def _in_pieces(subject: Subject, ids: Tensor, stops: Sequence[int]) -> Tensor:
    outputs, cache, start = [], None, 0
    for stop in stops:
        output, cache = subject.run(ids[:, start:stop], None, cache)
        outputs.append(output)
        start = stop
    return torch.cat(outputs, 1)


def _forgetting(subject: Subject, ids: Tensor) -> Check:
    with subject.attach(_evicting()) as memory:
        shadow = Shadow(memory)
        subject.run(ids, None, None)
        shadow.close()
        evicted, worst, layers = memory.report().evicted, shadow.worst, len(memory.layers)
    passed = worst <= subject.tolerance and (evicted > 0 or shadow.bounded)
    detail = f"{evicted} tokens forgotten in {layers} layers, largest difference {worst:.1e} of {subject.tolerance:.0e}"
    return Check("forgetting equals masking", passed, detail)


def _members(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    name = "a batch equals its members"
    stock, _ = subject.run(ids, mask, None)
    rows = [(slice(row, row + 1), slice(-length, None)) for row, length in enumerate(LENGTHS)]
    own = max(float(_difference(subject.run(ids[at], None, None)[0], stock[at]).max()) for at in rows)
    if own > STOCK_ERRS:
        return Check(name, True, "not asked", "in the stock model itself padding changes a row's outputs")
    with subject.attach(_evicting("window")) as memory:
        together, _ = subject.run(ids, mask, None)
        held = [[head.tolist() for head in layer.cache.slots()] for layer in memory.layers.values()]
        for row, at in enumerate(rows):
            alone, _ = subject.run(ids[at], None, None)
            found = _compared(name, alone, together[at], max(subject.tolerance, 4 * own))
            same = [layer.cache.slots()[0].tolist() for layer in memory.layers.values()] == [of[row] for of in held]
            if not (found.passed and same):
                return Check(name, False, f"row {row}: {found.detail}{'' if same else ', and holds other slots'}")
    return Check(name, True, f"{len(LENGTHS)} prompts of {', '.join(map(str, LENGTHS))} tokens, left-padded")


def _bytes(subject: Subject, ids: Tensor, mask: Tensor) -> Check:
    def held(memory: Memory) -> tuple[int, int]:
        tensors = [
            tensor
            for layer in memory.layers.values()
            for tensor in (layer.cache.keys, layer.cache.values, layer.cache.tail_keys, layer.cache.tail_values)
        ]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(storages.values()), memory.report().cache_bytes

    with subject.attach(make_policy("full", interval=INTERVAL)) as memory:
        subject.run(ids, mask, None)
        everything, claimed = held(memory)
        bounded = all(layer.rule.local is not None for layer in memory.layers.values())
    with subject.attach(_evicting()) as memory:
        subject.run(ids, mask, None)
        kept, reported = held(memory)
        grouped = {f"{layer.group * layer.cache.kv_heads}/{layer.cache.kv_heads}" for layer in memory.layers.values()}
    passed = everything == claimed and kept == reported and (kept < everything or bounded)
    heads = ", ".join(sorted(grouped))
    detail = f"{claimed} bytes with everything kept, {reported} after forgetting; query/KV heads {heads}"
    return Check("bytes reported are bytes held", passed, detail)


def _fingerprint(model: PreTrainedModel) -> str:
    """A hash over a model's configuration, hooks, attributes and small change of its weights."""
    facts: list[Any] = [
        json.dumps(model.config.to_dict(), sort_keys=True, default=str),
        model.config._attn_implementation,
    ]
    for name, module in model.named_modules():
        facts.append((name, sorted(map(str, vars(module))), len(module._forward_hooks), len(module._forward_pre_hooks)))
        facts.append("forward" in vars(module))
    facts += [(name, tuple(p.shape), p.dtype, p._version) for name, p in model.named_parameters()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Arguments:
    """Checks that a model may be used under a forgetting memory."""

    model: tyro.conf.Positional[str]
    """A folder, a name on the Hub, or ``tiny:FAMILY`` for a random model of a family."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights; only in float32 are small errors told from rounding."""

    device_map: str | None = None
    """Where the weights go, as in transformers (``auto``); None leaves them on the CPU."""

    trust_remote_code: bool = False
    """Whether the folder's own Python files may run."""


def load(arguments: Arguments) -> PreTrainedModel:
    """The model that the arguments name."""
    dtype = getattr(torch, arguments.dtype)
    if arguments.model.startswith("tiny:"):
        return tiny_model(arguments.model.removeprefix("tiny:")).to(dtype)
    return AutoModelForCausalLM.from_pretrained(
        arguments.model,
        dtype=dtype,
        device_map=arguments.device_map,
        trust_remote_code=arguments.trust_remote_code,
    )


def main() -> None:
    """The command; exit status 0 if the model conforms, 1 if it does not, 2 if it is refused."""
    logging.set_verbosity_error()
    arguments = tyro.cli(Arguments, prog="python -m modalities.conformance")
    try:
        model = load(arguments)
    except (NammError, OSError, ValueError, ImportError) as error:
        sys.exit(f"{arguments.model}: cannot be loaded. {error}")
    verdict = examine(subject_of(model, arguments.model))
    print(verdict)
    if verdict.report:
        print(f"What a memory of {BUDGET} slots held of it:\n{verdict.report}")
    sys.exit(0 if verdict.conforms else 2 if verdict.refused else 1)


if __name__ == "__main__":
    main()
