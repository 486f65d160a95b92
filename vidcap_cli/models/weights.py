"""Weights on their way to the device, and layers on their way into graphs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.common import np_dtype
from numpy.typing import NDArray

if TYPE_CHECKING:  # the kernels themselves use ``to_tensor``
    from vidcap_cli.models.kernels import Kernels

Read = Callable[[str], NDArray[np.float32]]

# MindSpore gives a bfloat16 to the versions of numpy that it was built for, none to others.
_NUMPY = {
    ms.float32: np.float32,
    ms.float16: np.float16,
    ms.bfloat16: getattr(np_dtype, "bfloat16", None),
}

# Layers that share a graph: to start one takes some milliseconds on few cores, to compile it grows.
_LAYERS = 6


def to_tensor(array: NDArray[Any], dtype: Any) -> Tensor:
    """``array`` on the device, brought to ``dtype`` before it goes there."""
    if _NUMPY[dtype] is None:
        return Tensor(np.ascontiguousarray(array, np.float32)).astype(dtype)
    return Tensor(np.ascontiguousarray(array, _NUMPY[dtype]))


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by the names of the files, shaped as there: ``[out, in]``.

    Weights of products are kept in ``dtype``, other tensors in what rows are of.
    """

    read: Read
    kernels: "Kernels"
    dtype: Any

    def tensor(self, *names: str) -> Tensor:
        """The tensors of these names, one after the other."""
        array = np.concatenate([self.read(name) for name in names])
        return self.row(array) if array.ndim == 1 else self.kernels.weight(array, self.dtype)

    def row(self, array: NDArray[Any]) -> Tensor:
        """What is added to rows or multiplied with them, number by number."""
        return to_tensor(array, self.kernels.numbers(self.dtype))

    def pair(self, *names: str, biased: bool = True) -> tuple[Tensor, Tensor]:
        """Weight and bias; zeros for a bias that the files do not hold."""
        weight = self.tensor(*(f"{name}.weight" for name in names))
        if biased:
            return weight, self.tensor(*(f"{name}.bias" for name in names))
        return weight, self.row(np.zeros(weight.shape[0]))


def in_graphs(layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The tensors of all layers, those of layers that share a graph in one list, at least one.

    Layers are spread evenly: lists are of two lengths at most, and so are graphs.
    """
    count = max(1, -(-len(layers) // _LAYERS))
    ends = [len(layers) * index // count for index in range(count + 1)]
    return [list(chain.from_iterable(layers[a:b])) for a, b in pairwise(ends)]
