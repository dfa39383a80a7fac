"""Half precision is used where the machine has it."""

from __future__ import annotations

import pytest
import torch

from modalities.pretrained import precision


@pytest.mark.parametrize(("slower", "expected"), [(True, torch.float32), (False, torch.bfloat16)])
def test_a_cpu_that_emulates_bfloat16_computes_in_float32(
    slower: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {torch.float32: 10.0, torch.bfloat16: 1.0 if slower else 20.0}
    monkeypatch.setattr(precision, "matmul_rate", lambda dtype: rates[dtype])
    precision._is_slower.cache_clear()
    try:
        assert precision.quick_dtype(torch.bfloat16, "cpu") is expected
        assert precision.quick_dtype(torch.bfloat16, "cuda:1") is torch.bfloat16
        assert precision.quick_dtype(torch.float64, "cpu") is torch.float64
    finally:
        precision._is_slower.cache_clear()


def test_the_rate_is_that_of_the_products_that_were_made() -> None:
    assert 1e8 < precision.matmul_rate(torch.float32, size=256) < 1e13
