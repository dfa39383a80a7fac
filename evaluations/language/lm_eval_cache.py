"""lm_eval's response cache, bound to what answered: `--use_cache` finds a response by its request alone.

Another policy, NAMM, model, window or type would be given the first one's scores. So a cache keeps, beside the
responses, an identity of everything that decides them, and is refused to anything else.
"""

# pyright: reportAttributeAccessIssue=false
# lm_eval's registry wraps HFLM in a decorator without types: a checker sees none of its members
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from evaluations.rows.provenance import versions
from namm.errors import ConfigError

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

    from namm.policies import Policy

KEY = "namm: what answered"
"""Where the identity lies among the responses; their keys are digests."""

DECIDING = (
    "max_length", "max_gen_toks", "add_bos_token", "truncation", "prefix_token_id", "think_end_token", "softmax_dtype",
    "backend",
)  # fmt: skip
"""Attributes of lm_eval's model that decide a response, given the request."""


def bind(cache: MutableMapping[str, Any], identity: Mapping[str, Any], name: str) -> None:
    """Makes a new cache that of an identity, or makes sure that it is.

    Args:
        cache: Responses by the digest of their request, and the identity.
        identity: Of `identity_of`.
        name: Of the file, for the message.

    Raises:
        ConfigError: The cache holds the responses of something else, or of nobody knows what.
    """
    identity = json.loads(json.dumps(identity))
    if KEY in cache:
        before = json.loads(cache[KEY])
        names = [name for name in {**identity, **before} if before.get(name) != identity.get(name)]
        changed = [_change(name, before.get(name), identity.get(name)) for name in names]
        if changed:
            raise ConfigError(
                f"{name}: expected a cache of this model and policy, found responses of another: {', '.join(changed)}. "
                "Give each its own --use_cache."
            )
    elif len(cache):
        raise ConfigError(
            f"{name}: expected a new cache, or one that says what answered, found {len(cache)} responses of unknown "
            "origin; give another --use_cache."
        )
    else:
        cache[KEY] = json.dumps(identity)


def identity_of(lm: HFLM, policy: Policy) -> dict[str, Any]:
    """Everything that decides a response, given the request.

    Args:
        lm: lm_eval's model.
        policy: Governs its cache.
    """
    made_with = versions(("torch", "transformers", "lm_eval", "tokenizers"))
    told = ("python", "git_commit", "code")  # as for the key of a row, most edits leave results as they are
    return {
        "weights": digest(lm.model),
        "config": _sha256(json.dumps(lm.model.config.to_dict(), sort_keys=True, default=str)),
        "tokenizer": _tokenizer(lm.tokenizer),
        **{f"policy {key}": value for key, value in _facts(policy).items()},
        **{name: _plain(getattr(lm, name, None)) for name in DECIDING},
        "device": str(lm.device.type),
        **{name: found for name, found in made_with.items() if name not in told},
    }


def digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and every byte. Scaled rotary positions are buffers.

    Args:
        model: With its weights anywhere.
    """
    found = hashlib.sha256()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.device.type != "meta":
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _facts(policy: Policy) -> dict[str, Any]:
    """What a policy says of itself, and the options that it keeps."""
    kept = {name: _plain(value) for name, value in vars(policy).items()}
    return {**{name: value for name, value in kept.items() if value is not None}, **policy.describe()}


def _plain(value: Any) -> Any:
    """A value as JSON may hold it; None for what is no plain value."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, torch.dtype) else None


def _tokenizer(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return _sha256(told + json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _change(name: str, before: Any, now: Any) -> str:
    def short(value: Any) -> str:
        return value[:12] if isinstance(value, str) and len(value) == 64 else repr(value)

    return f"{name} {short(before)} (now {short(now)})"
