"""The language models of all three families: Llama and Qwen2, compiled, with a static cache.

One step of decoding is one graph over all layers and all slots (``ms.jit``), compiled once for each
length of the cache; the lengths are powers of two, so there are few. A prompt is prefilled by
itself, in blocks of queries: memory grows with its length, not with its square. A layer over the
first block is one graph, some layers over a short prompt are. Of later blocks only what depends on
the number of rows alone is compiled; attention over what came before has another length every time
and runs operator by operator. Of the last layer only the keys, the values and the last row are
wanted.

Weights lie as in the files, ``[out, in]``, q, k and v one after the other. They are plain tensors
handed to the graphs: a Parameter would be compiled in, for every layer anew.

Norms, softmax and logits are float32 whatever the weights are.
Sources: transformers 4.57 ``modeling_llama.py``, ``modeling_qwen2_vl.py``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.decoder_graphs import NEVER, Graphs, scatter_rows
from vidcap_cli.models.device import eagerly, writes_by_rows
from vidcap_cli.models.kernels import (
    Read,
    batched,
    batched_t,
    cut,
    in_graphs,
    joined,
    softmax,
    to_tensor,
)

# Rows of a prompt that are prefilled together: all if there are no more than ``MOST_ROWS``, else
# ``BLOCK_ROWS``: less memory, as fast from 4,096 tokens on, a fifth slower at 2,500 (CPU).
# Fewer where their scores would take more than ``SCORES`` bytes (``Decoder.scores`` may be set
# lower), never less than the fewest.
MOST_ROWS, BLOCK_ROWS, FEWEST_ROWS = 2048, 1024, 256
SCORES = 1_200_000_000
_ROUND = 64  # the last block of a prompt is filled up to a multiple of this, to compile for few
# Rows of a prompt so short that some layers share a graph. A longer one takes long enough for it
# not to matter, and longer to compile.
SHORT = 512
_PART = 256  # queries of a first block that look at what came before the last of them, no further
SHORTEST = 256  # tokens of the smallest cache


def _rows(table: Tensor, which: NDArray[np.integer[Any]]) -> Tensor:
    """Rows ``[n, width]`` of ``table`` by their numbers ``[n]``."""
    return ops.gather(table, Tensor(which.astype(np.int32)), 0)


def _appended(before: Any, new: Tensor) -> Tensor:
    """Keys or values ``[kv_heads, n, head]`` after those of earlier blocks, if there are any."""
    return new if before is None else ops.concat((before, new), 1)


class Following(NamedTuple):
    """What may follow each of S sequences: the logits ``[S, vocab]`` of all tokens, float32, and
    the ids ``[S]`` of those with the largest.
    """

    logits: Tensor
    best: Tensor


@dataclass(slots=True)
class Prefilled:
    """A prompt whose keys and values are known, ``[kv_heads, length, head]`` of each layer.

    They may be longer than ``length``; what follows means nothing.
    ``delta`` is added to the number of a token to give its position: with M-RoPE a video takes
    fewer positions than tokens. ``following`` is what may follow the last token.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    delta: int
    following: Following


class _Cache:
    """Keys and values of all layers in turn, ``whole`` ``[B, length, head]`` each, zero at first.

    Where caches are written to by rows, ``rows`` ``[B * length, head]`` are what exists, ``whole``
    views of them; elsewhere ``rows`` is empty.
    """

    def __init__(
        self, tensors: int, shape: tuple[int, int, int], number: Any, *, by_rows: bool
    ) -> None:
        batch, length, head = shape
        kept = [
            Parameter(
                ops.zeros((batch * length, head) if by_rows else shape, number),
                name=f"cache_{length}_{index}",
            )
            for index in range(tensors)
        ]
        self.rows = kept if by_rows else []
        with eagerly():
            self.whole = [tensor.view(*shape) for tensor in kept] if by_rows else kept

    def put(self, first: int, tensors: Iterable[Tensor]) -> None:
        """Write ``tensors`` ``[b, n, head]`` to the first n tokens from ``first`` on."""
        where = None
        for index, tensor in enumerate(tensors):
            heads, tokens, _ = tensor.shape
            if not self.rows:
                self.whole[index][first : first + heads, :tokens] = tensor
                continue
            if where is None:  # the same for all
                starts = (first + np.arange(heads)) * self.whole[0].shape[1]
                where = Tensor((starts[:, None] + np.arange(tokens)).astype(np.int32))
            scatter_rows(self.rows[index], where, tensor)

    def get(self, first: int, heads: int, tokens: int) -> Iterator[Tensor]:
        """What ``put`` has put there."""
        return (tensor[first : first + heads, :tokens] for tensor in self.whole)


class Decoder:
    """A language model with ``slots`` sequences in the making.

    ``read`` gives a weight by its name in ``DecoderConfig.shapes``, as float32; ``number`` is the
    type they are kept and multiplied in.
    """

    def __init__(self, config: DecoderConfig, read: Read, *, slots: int, number: Any) -> None:
        self.config = config
        self.slots = slots
        self.scores = SCORES  # bytes
        self._number = number
        self._bytes = 4 if number == ms.float32 else 2
        self.embedding = self._tensor(read("embed_tokens.weight"))
        self._head = self.embedding if config.tied else self._tensor(read("lm_head.weight"))
        self._norm = self._tensor(read("norm.weight"))
        self._layers = [self._read_layer(read, index) for index in range(config.layers)]
        self._together = in_graphs(self._layers)
        self._all = [tensor for layer in self._layers for tensor in layer]
        self._graphs = Graphs(config, by_rows=writes_by_rows())
        self._frequencies = 1.0 / config.theta ** (
            np.arange(0, config.head, 2, dtype=np.float32) / np.float32(config.head)
        )
        self._masks_of = (0, 0, 0)  # rows, part and group
        self._last_masks: list[Tensor] = []
        self._caches: dict[int, _Cache] = {}
        self.length = 0  # tokens that the cache in use holds for each slot
        self._filled = np.zeros(slots, np.int64)
        self._deltas = np.zeros(slots, np.int64)
        self._promised = np.zeros(slots, np.int64)

    def embed(self, ids: NDArray[np.int64]) -> Tensor:
        """The embeddings ``[n, hidden]`` of token ids ``[n]``."""
        return _rows(self.embedding, ids)

    def prefill(
        self, rows: Tensor, where: NDArray[np.integer[Any]], positions: NDArray[np.int64]
    ) -> Prefilled:
        """Run a prompt of n tokens at ``positions`` ``[n]`` or ``[3, n]``.

        The embedding of each is the row of ``rows`` ``[m, hidden]`` that ``where`` ``[n]`` names.
        """
        length = len(where)
        blocks = self._blocks(length)
        fill = sum(blocks) - length
        where = np.pad(where, (0, fill))
        tables = [np.pad(table, ((0, fill), (0, 0))) for table in self._angles(positions)]
        row = Tensor(np.array([(length - 1) % blocks[0]], np.int32))
        filling = np.arange(length + fill) >= length
        hidden = Tensor(np.where(filling, NEVER, 0).astype(np.float32))
        if len(blocks) == 1:
            following, kept = self._in_one(rows, where, tables, row=row, hidden=hidden)
        else:
            following, kept = self._in_blocks(rows, where, tables, blocks, row=row, hidden=hidden)
        delta = int(positions.max()) + 1 - length
        return Prefilled(kept[::2], kept[1::2], length, delta, following)

    def _in_one(
        self, rows: Tensor, where: NDArray[np.integer[Any]], tables: list[NDArray[Any]],
        *, row: Tensor, hidden: Tensor,
    ) -> tuple[Following, list[Tensor]]:  # fmt: skip
        """A prompt of a single block; back come its keys and values, too, layer by layer."""
        x, turn = _rows(rows, where), [self._spread(table) for table in tables]
        *most, final = self._together if x.shape[0] <= SHORT else self._layers
        x, kept = self._first(x, turn, most)
        masks = self._masks(x.shape[0], _PART, self._graphs.group)
        logits, best, *more = self._graphs.last(
            x, *turn, row, hidden, self._norm, self._head, len(masks), *masks, *final
        )
        return Following(logits, best), kept + more

    def _in_blocks(
        self, rows: Tensor, where: NDArray[np.integer[Any]], tables: list[NDArray[Any]],
        blocks: list[int], *, row: Tensor, hidden: Tensor,
    ) -> tuple[Following, list[Tensor]]:  # fmt: skip
        """As ``_in_one``, block by block."""
        *layers, final = self._layers
        kept: list[Any] = []
        start = 0
        for count in blocks:
            here = slice(start, start + count)
            x, turn = _rows(rows, where[here]), [self._spread(table[here]) for table in tables]
            if start == 0:
                x, kept = self._first(x, turn, layers)
                kept += None, None
            else:
                for index, layer in enumerate(layers):
                    pair = slice(2 * index, 2 * index + 2)
                    x, *kept[pair] = self._later(x, turn, layer, *kept[pair])
            q, k, v = self._project(x, turn, final)
            kept[-2:] = _appended(kept[-2], k), _appended(kept[-1], v)
            start += count
        x = self._last(x, q, final, *kept[-2:], row=row, hidden=hidden)
        return Following(*self._graphs.head(x, self._norm, self._head)), kept

    def _first(
        self, x: Tensor, turn: list[Tensor], layers: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Layers over the first block, those of each list in one graph."""
        masks, kept = self._masks(x.shape[0], _PART, self._graphs.group), []
        for some in layers:
            x, *more = self._graphs.first(x, *turn, len(masks), *masks, *some)
            kept += more
        return x, kept

    def _later(
        self, x: Tensor, turn: list[Tensor], layer: list[Tensor], keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over a block after the first; ``keys`` and ``values`` of what came before.

        Rows of filling come last: masks hide them from all that are not. Of the heads that share
        keys one goes at a time: their scores are what takes memory.
        """
        q, k, v = self._project(x, turn, layer)
        rows = x.shape[0]
        (mask,) = self._masks(rows, rows, 1)
        all_keys, all_values = _appended(keys, k), _appended(values, v)
        attended = []
        for some in cut(q, rows, 1):
            before, own = (batched_t(some, part).astype(ms.float32) for part in (keys, k))
            weights = softmax(ops.concat((before, own + mask), -1)).astype(x.dtype)
            attended.append(batched(weights, all_values))
        return self._finish(x, joined(attended, 1), layer), all_keys, all_values

    def _project(
        self, x: Tensor, turn: list[Tensor], layer: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        norm, _, qkv, bias, *_ = layer
        projected: tuple[Tensor, Tensor, Tensor] = self._graphs.project(x, *turn, norm, qkv, bias)
        return projected

    def _last(
        self, x: Tensor, q: Tensor, layer: list[Tensor], keys: Tensor, values: Tensor,
        *, row: Tensor, hidden: Tensor,
    ) -> Tensor:  # fmt: skip
        """The last layer for one ``row`` of the last block ``x``, ``[1, hidden]``."""
        config = self.config
        q = ops.gather(q.reshape(config.heads, -1, config.head), row, 1)
        scores = batched_t(q.reshape(config.kv_heads, -1, config.head), keys).astype(ms.float32)
        weights = softmax(scores + hidden).astype(x.dtype)
        return self._finish(ops.gather(x, row, 0), batched(weights, values), layer)

    def _finish(self, x: Tensor, attended: Tensor, layer: list[Tensor]) -> Tensor:
        _, norm, _, _, out, gate, up, down = layer
        finished: Tensor = self._graphs.finish(x, attended, out, norm, gate, up, down)
        return finished

    def _masks(self, rows: int, part: int, group: int) -> list[Tensor]:
        """What hides later tokens of a block from ``part`` queries of ``group`` heads at a time.

        Each ``[kv_heads, group * queries, keys]``, the keys up to the last of the queries.
        In full size: adding a mask that has to be broadcast takes twenty times as long on CPU.
        """
        if self._masks_of != (rows, part, group):
            self._masks_of, self._last_masks = (rows, part, group), []
            for start in range(0, rows, part):
                end = min(rows, start + part)
                later = np.triu(np.full((end - start, end), NEVER, np.float32), start + 1)
                self._last_masks.append(Tensor(np.tile(later, (self.config.kv_heads, group, 1))))
        return self._last_masks

    def shapes(self, length: int) -> set[object]:
        """What graphs a prompt of ``length`` runs through."""
        first, *more = self._blocks(length)
        return {("first", first), *(("later", rows) for rows in more)}

    def _blocks(self, length: int) -> list[int]:
        """Rows of each block of a prompt; the last is filled up."""
        most = self._block_rows(length)
        whole, rest = divmod(length, most)
        return [most] * whole + [-(-rest // _ROUND) * _ROUND] * (rest > 0)

    def _block_rows(self, length: int) -> int:
        """Rows of a prompt of ``length`` to prefill together, a power of two."""
        rows = MOST_ROWS if length <= MOST_ROWS else BLOCK_ROWS
        while rows > FEWEST_ROWS and self._score_bytes(rows, length) > self.scores:
            rows //= 2
        return rows

    def _score_bytes(self, rows: int, length: int) -> int:
        """What attention in blocks of ``rows`` takes of a prompt of ``length``: scores, those of
        earlier tokens joined to them, their softmax, and at most as much for the mask, in float32.

        A first block has all heads at once, each query with the tokens before it; a later one a
        head for each of keys and values.
        """
        rows = min(rows, length)
        first = self.config.heads * rows * rows // 2
        return 4 * 4 * max(first, self.config.kv_heads * rows * length)

    def insert(self, slot: int, prefilled: Prefilled, new_tokens: int) -> None:
        """Put a prompt into a slot that is free, with room for ``new_tokens`` more."""
        there = prefilled.keys[0].shape[1]
        self._promised[slot] = max(prefilled.length + new_tokens, there)
        self._fit()
        pairs = zip(prefilled.keys, prefilled.values, strict=True)
        with eagerly():
            self._caches[self.length].put(slot * self.config.kv_heads, chain.from_iterable(pairs))
        self._filled[slot] = prefilled.length
        self._deltas[slot] = prefilled.delta

    def free(self, slot: int) -> None:
        """Forget the sequence in a slot."""
        self._filled[slot] = self._deltas[slot] = self._promised[slot] = 0

    def step(self, ids: NDArray[np.int64]) -> Following:
        """Append a token to every slot. What follows in free slots means nothing."""
        heads = self.config.kv_heads
        last = np.repeat(self._filled, heads)
        head = np.arange(self.slots * heads)
        where = head * self.length + last if self._graphs.by_rows else np.stack([head, last], 1)
        cache = self._caches[self.length]
        cos, sin = self._angles(self._filled + self._deltas)
        following = self._graphs.step(
            Tensor(ids.astype(np.int32)),
            Tensor(where.astype(np.int32)),
            Tensor(last.astype(np.int32).reshape(-1, 1, 1)),
            self._spread(cos),
            self._spread(sin),
            self.embedding,
            self._norm,
            self._head,
            *self._all,
            *cache.whole,
            *cache.rows,
        )
        self._filled += self._promised > 0
        return Following(*following)

    def need(self, prompt: int, new_tokens: int) -> int:
        """Bytes that a prompt of so many tokens takes at most, on its way and in its slot."""
        config, number = self.config, self._bytes
        # Shorter caches that stay take less than this one again.
        cached = 2 * self.slots * self.cache_length(prompt + new_tokens)
        kept = (prompt + cached) * config.cache_numbers * number
        rows = self._block_rows(prompt)
        scores = self._score_bytes(rows, prompt)
        turned = (config.heads + config.kv_heads) * config.head
        # Blocks of two sizes: an allocator does not put all of one where the other was.
        inner = number * min(prompt, 2 * rows) * (4 * config.mlp + 6 * config.hidden + 4 * turned)
        joined = number * 4 * prompt * config.kv_heads * config.head
        total = kept + scores + inner + joined + 2 * number * prompt * config.hidden
        return total * 5 // 4  # what it loses to gaps, measured with prompts of many lengths (CPU)

    def cache_length(self, promised: int) -> int:
        """Tokens a slot of the cache has for a sequence of at most ``promised``."""
        return max(SHORTEST, 1 << (promised - 1).bit_length())

    def _fit(self) -> None:
        """Use the shortest cache that holds what every slot was promised; move what is there.

        A cache once made stays, and so does what was compiled for it: together they take less than
        twice the longest.
        """
        length = self.cache_length(int(self._promised.max()))
        if length == self.length:
            return
        config, before = self.config, self._caches.get(self.length)
        if length not in self._caches:
            shape = (self.slots * config.kv_heads, length, config.head)
            by_rows = self._graphs.by_rows
            self._caches[length] = _Cache(2 * config.layers, shape, self._number, by_rows=by_rows)
        for slot in map(int, np.flatnonzero(self._filled)):
            first = slot * config.kv_heads
            assert before
            kept = before.get(first, config.kv_heads, int(self._filled[slot]))
            self._caches[length].put(first, kept)
        self.length = length

    def _angles(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cosines and sines ``[n, head]`` of rotary positions ``[n]`` or, of M-RoPE, ``[3, n]``.

        Sines of the first half are negative, as ``Graphs.turned`` wants them.
        """
        if positions.ndim == 1:
            half = positions.astype(np.float32)[:, None] * self._frequencies
        else:
            sections = self.config.sections
            assert sections is not None
            # Which of time, height and width turns each pair of numbers.
            axis = np.repeat(np.arange(len(sections)) % 3, sections)
            half = positions.astype(np.float32)[axis].T * self._frequencies
        cos, sin = np.cos(half), np.sin(half)
        return np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)

    def _spread(self, table: NDArray[Any]) -> Tensor:
        """Cosines or sines ``[n, head]`` for the queries, which they scale, too, and the keys:
        ``[n, (heads + kv_heads) * head]``.

        In full size, as masks.
        """
        heads, kv_heads, head = self.config.heads, self.config.kv_heads, self.config.head
        scaled = np.tile(table * np.float32(head**-0.5), (1, heads))
        return self._tensor(np.concatenate([scaled, np.tile(table, (1, kv_heads))], 1))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return to_tensor(array, self._number)

    def _read_layer(self, read: Read, index: int) -> list[Tensor]:
        """The tensors of a layer in the order in which the graphs take them."""
        config, layer = self.config, f"layers.{index}"

        def weight(*names: str) -> Tensor:
            return self._tensor(np.concatenate([read(f"{layer}.{name}.weight") for name in names]))

        qkv = [f"self_attn.{name}_proj" for name in "qkv"]
        if config.biased:
            bias = np.concatenate([read(f"{layer}.{name}.bias") for name in qkv])
        else:
            bias = np.zeros((config.heads + 2 * config.kv_heads) * config.head, np.float32)
        return [
            weight("input_layernorm"),
            weight("post_attention_layernorm"),
            weight(*qkv),
            self._tensor(bias),
            weight("self_attn.o_proj"),
            weight("mlp.gate_proj"),
            weight("mlp.up_proj"),
            weight("mlp.down_proj"),
        ]
