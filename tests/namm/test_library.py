"""Torch's attention kernels for CUDA: called as torch declares them, taken where they are right, joined as ours are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from namm.kernels import library
from namm.kernels.blocks import attend_in_blocks
from namm.ragged import Layout


@pytest.fixture(autouse=True)
def _is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts as one that runs all kernels; what was found of it is forgotten."""
    monkeypatch.setattr(library, "is_modern", lambda device, least=(8, 0): least == (8, 0))
    library._is_right.cache_clear()
    library._is_ragged_right.cache_clear()


def fused(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> library.Attended:
    """A kernel of torch with the same contract, which runs here."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(library.cudnn, torch.bfloat16), (library.flash, torch.bfloat16), (library.efficient, torch.float32)],
)
def test_kernels_are_called_as_torch_declares_them(kernel, dtype) -> None:
    """By torch's own account of shapes: arguments in another order, or another output, fail here and not on a GPU."""
    query, key = (torch.empty(2, 3, tokens, 64, dtype=dtype, device="meta") for tokens in (50, 37))
    out, log_sum = kernel(query, key, key, 0.1, False)
    assert out.shape == (2, 3, 50, 64)
    assert log_sum.shape == (2, 3, 50)
    assert log_sum.dtype == torch.float32


def test_ragged_heads_are_called_as_torch_declares_it() -> None:
    query, keys = (torch.empty(*shape, dtype=torch.float16, device="meta") for shape in ((6, 5, 64), (100, 64)))
    ends = torch.empty(7, dtype=torch.int32, device="meta")
    out, log_sum = library.ragged(query, keys, keys, ends, 40, 0.1)
    assert out.shape == (6, 5, 64)
    assert log_sum.shape == (6, 5)


def test_a_kernel_that_does_not_run_is_left_with_a_warning_and_only_once() -> None:
    query, key = drawn(1, 2, 4, 16), drawn(1, 2, 9, 16)
    with pytest.warns(UserWarning, match="does not run there"):
        assert library.attend(query, key, key, 0.2, False) is None
    assert library.attend(query, key, key, 0.2, False) is None  # warnings are errors in no test, but once is enough
    half = query.half()
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)
    with pytest.warns(UserWarning, match="ragged heads"):
        assert library.attend_ragged(half[0], key[0, 0].half(), key[0, 0].half(), ends, 5, 0.2) is None


@pytest.mark.parametrize("causal", [False, True])
def test_a_kernel_that_is_right_is_taken(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "efficient", fused)
    query, key, value = drawn(2, 3, 20, 16), drawn(2, 3, 20, 16), drawn(2, 3, 20, 16)
    found = library.attend(query, key, value, 0.3, causal)
    mask = torch.ones(20, 20, dtype=torch.bool).tril()[None, None] if causal else None
    assert found is not None
    for one, other in zip(found, attend_in_blocks(query, key, value, 0.3, mask), strict=True):
        torch.testing.assert_close(one, other)


def test_the_next_kernel_is_asked_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the newest devices cuDNN's before flash attention, elsewhere not at all."""
    query = drawn(1, 2, 20, 16).half()
    asked = []

    def right(*given):
        asked.append("flash")
        out, log_sum = fused(*(part.float() for part in given[:3]), *given[3:])
        return out.half(), log_sum

    def wrong(*given):
        asked.append("cudnn")
        out, log_sum = right(*given)
        return out, 2 * log_sum

    monkeypatch.setattr(library, "cudnn", wrong)
    monkeypatch.setattr(library, "flash", right)
    assert library.attend(query, query, query, 0.3, False) is not None
    assert set(asked) == {"flash"}
    monkeypatch.setattr(library, "is_modern", lambda device, least=(8, 0): True)
    with pytest.warns(UserWarning, match="wrong attention"):
        assert library.attend(query, query, query, 0.3, False) is not None
    assert "cudnn" in asked


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *given: fused(*given[:3], 2 * given[3], given[4]),
        lambda *given: fused(*given[:4], not given[4]) if given[0].shape == given[1].shape else fused(*given),
        lambda *given: (fused(*given)[0], fused(*given)[1] * 1.4427),  # of logarithms to the base 2
        lambda *given: tuple(part * float("nan") for part in fused(*given)),
    ],
    ids=["another scale", "not causal", "another logarithm", "not a number"],
)
def test_a_kernel_that_is_wrong_is_left(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong.__name__ = "wrong"
    monkeypatch.setattr(library, "efficient", wrong)
    query, key = drawn(1, 2, 20, 16), drawn(1, 2, 20, 16)
    with pytest.warns(UserWarning, match="is off by"):
        assert library.attend(query, key, key, 0.3, True) is None


def test_what_kernels_do_not_take_is_left() -> None:
    """Odd widths, wide heads, double precision; no question is asked, so that nothing warns."""
    for query in (drawn(1, 2, 4, 12), drawn(1, 2, 4, 264), drawn(1, 2, 4, 16).double()):
        assert library.attend(query, query, query, 0.2, False) is None


def test_the_definitions_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_KERNELS", "off")
    monkeypatch.setattr(library, "efficient", fused)
    query = drawn(1, 2, 4, 16)
    assert library.attend(query, query, query, 0.2, False) is None


def test_uneven_heads_in_one_call_give_what_they_give_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where heads begin and end as the layout says, an empty one among them."""
    lengths = torch.tensor([[3, 0], [9, 5]])
    query, keys, values = drawn(2, 2, 4, 16).half(), drawn(17, 16).half(), drawn(18, 16)[:17].half()
    layout = Layout(lengths, keys)
    wanted = layout.attend(query, keys, values, 0.3)
    asked = []

    def one_by_one(rows, packed_keys, packed_values, ends, longest, scale):
        asked.append(longest)
        outs, log_sums = rows.new_zeros(rows.shape), torch.full(rows.shape[:2], -torch.inf)
        for head, (first, last) in enumerate(zip(ends.tolist(), ends.tolist()[1:], strict=False)):
            if last > first:
                mine = (part[None, None, first:last].float() for part in (packed_keys, packed_values))
                out, log_sum = attend_in_blocks(rows[None, None, head].float(), *mine, scale, None)
                outs[head], log_sums[head] = out[0, 0].half(), log_sum[0, 0]
        return outs, log_sums

    monkeypatch.setattr(library, "ragged", one_by_one)
    layout.ends = torch.tensor([0, 3, 3, 12, 17], dtype=torch.int32)  # as on a device that is not the CPU
    found = layout.attend(query, keys, values, 0.3)
    assert 9 in asked
    torch.testing.assert_close(found[0], wanted[0], rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(found[1], wanted[1], rtol=5e-3, atol=5e-3)
