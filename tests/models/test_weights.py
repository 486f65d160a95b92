"""Numbers reach the device rounded to the nearest of their dtype."""

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from tests.helpers.device import DEVICE
from vidcap_cli.models import weights
from vidcap_cli.models.device import select_device


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The nearest numbers with 8 bits of significand, ties to even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("numpy_knows", [True, False])
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16])
def test_numbers_are_rounded_to_their_dtype(monkeypatch, dtype, numpy_knows):
    select_device(DEVICE, compiled=True)
    if not numpy_knows:
        monkeypatch.setitem(weights._NUMPY, dtype, None)
    array = np.random.default_rng(0).normal(0, 1, (64, 33)).astype(np.float32)
    tensor = weights.to_tensor(array.T, dtype)
    assert tensor.dtype == dtype
    expected = {
        ms.float32: lambda x: x,
        ms.float16: lambda x: x.astype(np.float16).astype(np.float32),
        ms.bfloat16: bfloat16,
    }[dtype](array)
    np.testing.assert_array_equal(tensor.astype(ms.float32).asnumpy(), expected.T)
