"""The weights of a checkpoint folder, read tensor by tensor, in numpy.

Only safetensors, one file or shards. Nothing is read before it is asked for, so that a checkpoint
never lies in memory twice. numpy knows no bfloat16: such weights come back as float32, which holds
every one of them exactly.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vidcap_cli.checkpoint.files import weight_map
from vidcap_cli.errors import ModelError

# Tensors that AWQ, GPTQ, FP8, bitsandbytes and compressed-tensors keep beside or for a weight.
_QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|SCB|weight_(scale(_inv)?|packed|zero_point|format)"
    r"|(weight\.)?(absmax|quant_map|quant_state\..*))$"
)
# What a weight may be stored in, and the numpy type of its bytes.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: ``offset`` bytes into ``file``, of type ``number`` (BF16, F16, ...)."""

    file: Path
    number: str
    shape: tuple[int, ...]
    offset: int

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The values, as float32; only those of some ``rows`` of the first axis are read."""
        if not self.shape:
            return self._numbers(0, 1).reshape(())
        first, end, _ = rows.indices(self.shape[0])
        row = math.prod(self.shape[1:])
        return self._numbers(first * row, (end - first) * row).reshape(-1, *self.shape[1:])

    def ends(self, most: int) -> NDArray[np.float32]:
        """The first and the last values, ``most`` of each or all that there are."""
        most = min(most, self.parameters)
        last = self._numbers(self.parameters - most, most)
        return np.concatenate([self._numbers(0, most), last])

    def _numbers(self, first: int, number: int) -> NDArray[np.float32]:
        if self.number not in FLOATS:
            raise ModelError(f"{self.file} holds weights of type {self.number}, not floats.")
        kind = np.dtype(FLOATS[self.number])
        raw = np.fromfile(self.file, kind, number, offset=self.offset + first * kind.itemsize)
        if raw.size != number:
            raise ModelError(f"{self.file} was cut short; download it again.")
        if self.number == "BF16":
            # The upper half of a float32.
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint folder by their names in the files."""

    def __init__(self, folder: Path) -> None:
        placed = weight_map(folder)
        self._folder = folder
        self._tensors: dict[str, Tensor] = {}
        for file in sorted(set(placed.values())) or ["model.safetensors"]:
            for name, tensor in read_header(folder / file).items():
                if name in self._tensors:
                    raise ModelError(f"{folder}: {name[:200]} is in two shards.")
                self._tensors[name] = tensor
        lost = sorted(placed.keys() - self._tensors.keys())
        if lost:
            raise ModelError(f"the shards in {folder} lack {', '.join(lost[:5])}.")

    def check_floats(self) -> None:
        """Raise ModelError when weights are quantised, as their names or types show."""
        for name, tensor in self._tensors.items():
            if _QUANTISED.search(name) or tensor.number.startswith(("F8", "F6", "F4", "I4")):
                raise ModelError(
                    f"the weights in {self._folder} are quantised ({name[:200]}, {tensor.number}), "
                    "which vidcap does not compute. Give the folder of the model that was "
                    "quantised, in 16 or 32 bits."
                )

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file: an 8-byte length, a JSON header, the data.

    The reference reader checks the header as it opens the file: types, and offsets that leave no
    byte out and use none twice. Raises ModelError for what it refuses.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(size))
    except FileNotFoundError:
        raise ModelError(f"{file.parent} has no {file.name}.") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} is not a safetensors file: {str(error)[:200]}; download it again."
        ) from error
    start = 8 + size
    return {
        name: Tensor(file, it["dtype"], tuple(it["shape"]), start + it["data_offsets"][0])
        for name, it in header.items()
        if name != "__metadata__"
    }
