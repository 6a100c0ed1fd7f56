"""A row's product does not depend on how many other rows are multiplied with it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pytest_dspy_ft.local.compat import can_pack  # noqa: E402 - torch may not be there
from pytest_dspy_ft.local.inference.packed_linear import PackedLinear, least_rows  # noqa: E402


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(64, 8192), (96, 3000), (576, 1536), (1536, 576), (33, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_alone_is_a_row_among_many(dtype: torch.dtype, shape: tuple[int, int], threads: int) -> None:
    if not can_pack("cpu", dtype):
        pytest.skip(f"oneDNN does not multiply {dtype} here")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = torch.Generator().manual_seed(1)
        layer = PackedLinear(torch.randn(*shape, generator=made).to(dtype), torch.ones(shape[0]).to(dtype))
        rows = torch.randn(200, shape[1], generator=made).to(dtype)
        together = layer(rows)
        for count in (1, 2, 3, 5, 8):
            apart = torch.cat([layer(rows[first : first + count]) for first in range(0, 200, count)])
            assert torch.equal(apart, together), count
        assert layer(rows[:1][None]).shape == (1, 1, shape[0])
        assert 1 <= least_rows(layer.packed) <= 16
    finally:
        torch.set_num_threads(before)
