"""The released code's behaviour, whole: its policy, its attention arithmetic, its chunks and its rotary positions.

    with attach_released(model, namm) as memory:
        model.generate(prompt, max_new_tokens=64, do_sample=False)

keeps the tokens that the released code keeps and generates the tokens that it generates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from transformers import PreTrainedModel

from modalities.huggingface.attach import attach
from modalities.huggingface.rope import NTKRope, scaled_rope
from namm import NAMM, Memory
from namm.policies import make_policy

AS_RELEASED = NTKRope()


@contextmanager
def attach_released(
    model: PreTrainedModel, namm: NAMM, rope: NTKRope | None = AS_RELEASED, **options: Any
) -> Iterator[Memory]:
    """Attaches a NAMM as the released code does, for the length of a ``with`` block.

    Args:
        model: A decoder with rotary positions, in bf16 as released or in fp32.
        namm: From :func:`namm.compat.read_released` or a folder.
        rope: Stretches the context window as released; None leaves the model's positions alone.
        options: Of :func:`namm.policies.make_policy`, in place of the preset's (``budget`` is the released code's
            ``cache_size``).

    Yields:
        The memory.

    Raises:
        AttachError: The model cannot be driven, or its rotary positions cannot be stretched.
    """
    policy = make_policy("namm:released", namm=namm, **options)
    with nullcontext() if rope is None else scaled_rope(model, rope), attach(model, policy) as memory:
        yield memory
