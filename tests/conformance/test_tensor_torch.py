"""Tensors and PyTorch's CPU tensors share memory in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.errors import InvalidArgumentError
from gpuconv.tensors import Tensor, as_array, tensor

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _cpu(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "cpu")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last"])
def test_from_torch_without_a_copy(dtype, layout):
    theirs = torch.arange(24).reshape(1, 2, 3, 4).to(getattr(torch, dtype))
    if layout == "transposed":
        theirs = theirs.transpose(1, 3)
    elif layout == "channels_last":
        theirs = theirs.to(memory_format=torch.channels_last)
    ours = tensor(theirs)
    assert (ours.shape, ours.dtype.name) == (tuple(theirs.shape), dtype)
    np.testing.assert_array_equal(ours, theirs.numpy())
    ours[0, 0, 0, 0] = 77
    assert theirs[0, 0, 0, 0] == 77


def test_to_torch_without_a_copy():
    ours = Tensor(np.arange(6, dtype="float32").reshape(2, 3))
    for theirs in (torch.from_dlpack(ours), torch.from_numpy(ours.numpy()), torch.as_tensor(ours)):
        assert theirs.shape == (2, 3)
        theirs[1, 2] += 1
    assert ours[1, 2].item() == 8


def test_mixed_arithmetic_gives_tensors():
    ours, theirs = Tensor(np.float32([1, 2])), torch.tensor([3.0, 4.0])
    result = ours * theirs
    assert isinstance(result, Tensor)
    assert result.tolist() == [3.0, 8.0]
    assert as_array(theirs).dtype == np.float32


@pytest.mark.parametrize(
    "theirs",
    [
        torch.zeros(2, requires_grad=True),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
    ids=["requires_grad", "bfloat16", "sparse", "meta"],
)
def test_what_cannot_be_shared(theirs):
    with pytest.raises(InvalidArgumentError, match=r"cannot share.*Received: torch\.Tensor"):
        tensor(theirs)
