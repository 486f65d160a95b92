"""What ranks that share a model do together, within its graphs; a model of one rank does nothing.

Only sums go between ranks, so that one collective is all that a device has to offer. What a rank
has no share of counts as zeros there, which add nothing: embeddings and logits are exact, in 16
bits, too.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.models.kernels import Kernels


class Whole(nn.Cell):  # type: ignore[misc]
    """All of a model is here."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = kernels

    def ids(self, ids: NDArray[np.int64]) -> Tensor:
        """Host: token ids ``[n]`` as ``embed`` takes them."""
        return Tensor(ids.astype(np.int32))

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        """Embeddings ``[n, H]``."""
        return self.kernels.embed(table, ids)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``."""
        return x

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """``residual`` and the sum of every rank's product of ``x``."""
        return self.kernels.linear_add(x, weight, bias, residual)

    def joined(self, logits: Tensor) -> Tensor:
        """Logits ``[n, vocab]`` of which every rank has computed some, in float32."""
        return logits


class Sharded(Whole):
    """A share is here. The table of embeddings and the head have the rows of ``vocab`` that are
    this rank's; a tower has neither.
    """

    def __init__(self, kernels: Kernels, share: Share, vocab: int = 0) -> None:
        super().__init__(kernels)
        own = share.part(vocab)
        self.first, self.end, self.vocab = own.start, own.stop, vocab
        self.all_reduce = ops.AllReduce()

    def ids(self, ids: NDArray[np.int64]) -> Tensor:
        """Numbers of rows here; -1 for what others have."""
        mine = (ids >= self.first) & (ids < self.end)
        return Tensor(np.where(mine, ids - self.first, -1).astype(np.int32))

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        """Of ids that others have nothing."""
        rows = self.kernels.embed(table, ops.maximum(ids, 0))
        return self.all_reduce(rows * (ids >= 0).astype(rows.dtype).reshape(-1, 1))

    def summed(self, x: Tensor) -> Tensor:
        """In the dtype of ``x``."""
        return self.all_reduce(x)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """The bias is one rank's."""
        return residual + self.all_reduce(self.kernels.linear(x, weight, bias))

    def joined(self, logits: Tensor) -> Tensor:
        """Each at its place."""
        rows = logits.shape[0]
        before = ops.zeros((rows, self.first), ms.float32)
        after = ops.zeros((rows, self.vocab - self.end), ms.float32)
        return self.all_reduce(ops.concat((before, logits, after), -1))


def sharding_of(kernels: Kernels, share: Share, vocab: int = 0) -> Whole:
    """What a rank with ``share`` does with the others."""
    return Whole(kernels) if share.of == 1 else Sharded(kernels, share, vocab)
