"""The adapter of Hugging Face decoders: attached through the extension points of transformers, examined likewise."""

from __future__ import annotations

import inspect
import json
from contextlib import AbstractContextManager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modalities.base import Adapter
from modalities.conformance.pictures import Pictures, pictures_of
from modalities.conformance.subject import TOLERANCE, Subject, fingerprint
from modalities.huggingface.attach import attach, cache_name, cache_of
from modalities.huggingface.wrappers import holds_decoder, unwrapped
from namm import Memory
from namm.policies import Policy


class HuggingFace(Adapter):
    """Any decoder of transformers, or of the Hub, that computes attention through transformers' interface."""

    name: ClassVar[str] = "Hugging Face decoders"

    def takes(self, model: Any) -> bool:
        """See Adapter; also what torch.compile, DataParallel or PEFT has wrapped, or what else holds a decoder."""
        return holds_decoder(model)

    def attach(self, model: Any, policy: Policy, *, store: str = "packed") -> AbstractContextManager[Memory]:
        """See modalities/huggingface/attach.py."""
        return attach(model, policy, store=store)

    def subject(self, model: Any, name: str | None = None) -> Subject:
        """See Adapter.

        Raises:
            AttachError: A decoder is inside of it; the message says which part to examine.
        """
        unwrapped(model)
        # cast: what wraps a transformers model passes its configuration and methods on
        own = cast("PreTrainedModel", model)
        return examined(own, name, pictures_of(own))


def examined(model: PreTrainedModel, name: str | None = None, pictures: Pictures | None = None) -> Subject:
    """A Hugging Face model, as it is examined.

    Args:
        model: The model.
        name: In messages.
        pictures: What its prompts show; None examines it on text.
    """
    model.eval()

    def shown(ids: Tensor) -> dict[str, Any]:
        return {} if pictures is None else pictures.given(ids)

    def run(ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
        options = {} if cache is None else {cache_name(model) or "cache": cache}
        if mask is not None and takes_positions:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with torch.no_grad():
            output = model(input_ids=ids, attention_mask=mask, use_cache=True, **options, **shown(ids))
        value = output.logits if hasattr(output, "logits") else output.last_hidden_state
        try:
            return value, cache_of(output)
        except StopIteration:
            return value, None

    def generate(ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
        # Any: it is offered only where the model can generate, and no class of transformers says so
        return cast("Any", model).generate(
            input_ids=ids, attention_mask=mask, pad_token_id=int(tokens[0]), **options, **shown(ids)
        )

    config = model.config.get_text_config(decoder=True)
    # a model of pictures and text numbers its tokens by itself, in several dimensions
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters and config is model.config
    named = {**config.to_dict(), **model.config.to_dict()}
    ends = ("token_id", "token_index")  # of pictures, too
    special = {value for key, value in named.items() if key.endswith(ends) and isinstance(value, int)}
    first = min(10, config.vocab_size // 2)
    tokens = torch.tensor([token for token in range(first, config.vocab_size) if token not in special])
    return Subject(
        name=name or type(model).__name__,
        run=run,
        attach=lambda policy: attach(model, policy),
        generate=generate if model.can_generate() else None,
        fingerprint=lambda: fingerprint(model, *_configured(model)),
        tokens=tokens.to(model.device),
        tolerance=TOLERANCE.get(model.dtype, TOLERANCE[torch.float32]),
        model=model,
        reorder=_reordered,
        stored_types=_stored_types,
        **({} if pictures is None else {"placed": pictures.placed, "lengths": pictures.lengths}),
    )


def _reordered(cache: Any, rows: Tensor) -> Any:
    cache.reorder_cache(rows)
    return cache


def _stored_types(cache: Any) -> set[torch.dtype]:
    """Of the keys and values in a cache of transformers; none where it holds no such tensors."""
    found = (getattr(layer, name, None) for layer in getattr(cache, "layers", ()) for name in ("keys", "values"))
    return {tensor.dtype for tensor in found if isinstance(tensor, Tensor)}


def _configured(model: PreTrainedModel) -> tuple[str, str]:
    """What a model's configuration says."""
    return json.dumps(model.config.to_dict(), sort_keys=True, default=str), str(model.config._attn_implementation)
