"""What is examined: any model, with a way to run it and a way to attach a policy to it.

An adapter shows its models as a `Subject`. `module_subject` makes one of any torch module from the one function that
differs between models: how new tokens are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from namm.errors import AttachError, ConfigError
from namm.memory import Memory
from namm.policies import Policy

LENGTHS = (41, 58, 33)
"""Tokens of the prompts of a batch; left-padded to the longest."""
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}
"""Largest difference, in units of the largest stock value."""


@dataclass(frozen=True)
class Subject:
    """A model as it is examined."""

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
    placed: Callable[[Tensor, Tensor], Tensor] = lambda ids, mask: ids
    """Puts into prompts of drawn tokens what this model must also be shown; such as the places of pictures."""
    lengths: tuple[int, ...] = LENGTHS
    """Tokens of the prompts; what is placed near their beginning makes them longer."""
    padded: bool = True
    """Whether `run` heeds its mask; if not, prompts are equally long and no mask is given."""
    model: nn.Module | None = None
    """Whose weights are tried in half precision too; None leaves the types of keys and values unexamined."""
    reorder: Callable[[Any, Int[Tensor, " rows"]], Any] | None = None
    """A cache of `run` with these rows of its batch, in this order, as beam search asks for it."""
    stored_types: Callable[[Any], set[torch.dtype]] | None = None
    """Types of the keys and values in a stock cache of `run`; None takes that of the weights."""


@dataclass(frozen=True)
class Past:
    """The cache of a module that has none: what was read, and the memory's count of batches begun."""

    ids: Int[Tensor, "batch past"]
    batch: int | None
    """None where no memory is attached."""


def module_subject(
    model: nn.Module,
    attach: Callable[[Policy], AbstractContextManager[Memory]],
    forward: Callable[[Tensor, Tensor | None], Tensor],
    tokens: int,
    name: str | None = None,
    padded: bool = True,
    tolerance: float | None = None,
) -> Subject:
    """A torch module without a cache of its own, as it is examined.

    Args:
        model: The model; it is put into evaluation mode.
        attach: Attaches a policy to it.
        forward: Gives outputs `[batch, tokens, width]` of tokens: without a memory of a whole sequence, inside
            `attach` of the new tokens alone. Its second argument is the mask `[batch, columns]` over all columns so
            far, 0 for padding, which comes first; None where nothing is padded.
        tokens: Size of the vocabulary.
        name: In messages.
        padded: Whether `forward` heeds its mask.
        tolerance: Largest difference that is rounding; None is that of the type of the weights.
    """
    model.eval()
    open_memory: list[Memory] = []
    begun = [0]

    def attached(policy: Policy) -> AbstractContextManager[Memory]:
        return _Noted(attach(policy), open_memory)

    def outputs(ids: Tensor, mask: Tensor | None) -> Tensor:
        with torch.no_grad():
            found = forward(ids, mask)
        if found.dim() != 3 or found.shape[:2] != ids.shape:
            raise ConfigError(
                f"expected outputs [batch, tokens, width] of tokens {list(ids.shape)}, found {list(found.shape)}; give "
                "those of every token"
            )
        return found

    def run(ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
        whole = ids if cache is None else torch.cat([cache.ids, ids], dim=1)
        if not open_memory:
            return outputs(whole, mask)[:, -ids.shape[1] :], Past(whole, None)
        if cache is None:
            open_memory[-1].reset()
            begun[0] += 1
        elif cache.batch != begun[0]:
            raise AttachError("These sequences have ended: others have begun in the same memory.")
        return outputs(ids, mask), Past(whole, begun[0])

    def reorder(cache: Past, rows: Tensor) -> Past:
        if open_memory:
            open_memory[-1].select_sequences(rows)
        return Past(cache.ids[rows], cache.batch)

    weights = next((weight for weight in model.parameters() if weight.is_floating_point()), torch.empty(0))
    return Subject(
        name=name or type(model).__name__,
        run=run,
        attach=attached,
        generate=None,
        fingerprint=lambda: fingerprint(model),
        tokens=torch.arange(tokens, device=weights.device),
        tolerance=tolerance or TOLERANCE.get(weights.dtype, TOLERANCE[torch.float32]),
        lengths=LENGTHS if padded else (max(LENGTHS),) * len(LENGTHS),
        padded=padded,
        model=model,
        reorder=reorder,
    )


class _Noted(AbstractContextManager[Memory]):
    """A block of `attach`, whose memory whoever runs the model can look up."""

    def __init__(self, block: AbstractContextManager[Memory], noted: list[Memory]) -> None:
        self.block, self.noted = block, noted

    def __enter__(self) -> Memory:
        memory = self.block.__enter__()
        self.noted.append(memory)
        return memory

    def __exit__(self, *raised: Any) -> bool | None:
        self.noted.pop()
        return self.block.__exit__(*raised)


def fingerprint(model: nn.Module, *more: str) -> str:
    """A hash over a model's parts, hooks, attributes and small change of its weights.

    Args:
        model: The model.
        more: What else must be as it was.
    """
    facts: list[Any] = [*more]
    for name, module in model.named_modules():
        facts.append((name, type(module).__qualname__, module.training, sorted(map(str, vars(module)))))
        facts.append((len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module)))
        simple = {key: value for key, value in vars(module).items() if value is None or isinstance(value, bool)}
        facts.append(sorted(simple.items()))
    facts += [(name, tuple(p.shape), p.dtype, p._version) for name, p in model.named_parameters()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def types_of(model: nn.Module | None) -> set[torch.dtype]:
    """Types of a model's weights that are numbers with a point; none where some are not in memory."""
    weights = [] if model is None else list(model.parameters())
    if any(weight.is_meta for weight in weights):
        return set()
    return {weight.dtype for weight in weights if weight.is_floating_point()}


@contextmanager
def cast(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A model's numbers in another type inside the block; afterwards the very tensors from before."""
    numbers = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    before = [tensor.data for tensor in numbers]
    try:
        for tensor in numbers:
            tensor.data = tensor.data.to(dtype)
        yield
    finally:
        for tensor, data in zip(numbers, before, strict=True):
            tensor.data = data
