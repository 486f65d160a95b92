"""The language models of all three families: Llama and Qwen2, compiled, with a static KV cache.

One step of decoding is one graph over all layers and all slots (``ms.jit``), compiled once for each
length of the cache. A prompt is prefilled by itself, in blocks of tokens: memory grows with its
length, not with its square. A layer over the first block is one graph, some layers over a short
prompt are. Of later blocks only what depends on the number of tokens alone is compiled; attention
over what came before has another length every time and runs operator by operator. Of the last layer
only the keys, the values and the last token are wanted.

Weights are plain tensors handed to the graphs: a Parameter would be compiled in, for every layer
anew. Norms, softmax and logits are float32 whatever the weights are.
Sources: transformers 4.57 ``modeling_llama.py``, ``modeling_qwen2_vl.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from vidcap_cli.checkpoint.shares import WHOLE, Share
from vidcap_cli.models.decoder_config import DecoderConfig, cache_length
from vidcap_cli.models.decoder_graphs import DecoderGraphs
from vidcap_cli.models.kernels import Kernels
from vidcap_cli.models.kv_cache import KVCache
from vidcap_cli.models.rope import rope
from vidcap_cli.models.sharding import sharding_of
from vidcap_cli.models.weights import Read, Weights, in_graphs

# Tokens of a prompt that are prefilled together: all if there are no more than ``MOST_TOKENS``,
# else ``BLOCK_TOKENS``: less memory, as fast from 4,096 tokens on, a fifth slower at 2,500 (CPU).
# Fewer where their scores would take more than ``SCORE_BYTES`` (``Decoder.score_bytes`` may be set
# lower), never less than the fewest.
MOST_TOKENS, BLOCK_TOKENS, FEWEST_TOKENS = 2048, 1024, 256
SCORE_BYTES = 1_200_000_000
# Tokens of a prompt so short that some layers share a graph. A longer one takes long enough for it
# not to matter, and longer to compile.
_SHORT = 512

Index = NDArray[np.integer[Any]]
Rope = tuple[Tensor, Tensor]


class NextToken(NamedTuple):
    """What may follow each of S sequences: ``logits`` ``[S, vocab]``, float32, their ``argmax``
    ``[S]``, and the log-probability (natural) of that, ``log_prob`` ``[S]``.
    """

    logits: Tensor
    argmax: Tensor
    log_prob: Tensor


@dataclass(slots=True)
class Prefilled:
    """A prompt whose keys and values are known, by head, of each layer.

    The first ``length`` tokens count. ``rope_delta`` is added to the number of a token to give its
    position: with M-RoPE a video takes fewer positions than tokens.
    """

    keys: list[Tensor]
    values: list[Tensor]
    length: int
    rope_delta: int
    next_token: NextToken


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A padded prompt: where in ``embeds`` its tokens are, and their cosines and sines.

    ``row`` ``[1]`` is its last token within the last of ``blocks``; ``padding`` is a mask.
    """

    embeds: Tensor
    index: Index
    rope: tuple[NDArray[Any], NDArray[Any]]
    blocks: list[int]
    row: Tensor
    padding: Tensor


class Decoder:
    """A language model with ``slots`` sequences in the making.

    ``read`` gives a weight by its name in ``DecoderConfig.shapes``, as float32, or what ``share``
    has of it; it is kept in ``dtype``. With a share all that tokens go through is called by every
    rank of the group, with the same arguments.
    """

    def __init__(
        self,
        whole: DecoderConfig,
        read: Read,
        kernels: Kernels,
        *,
        slots: int,
        dtype: Any,
        share: Share = WHOLE,
    ) -> None:
        self.config = config = share.config(whole)
        self.score_bytes = SCORE_BYTES
        self.kept = 1  # prompts whose keys and values are there besides those in slots, at most
        numbers = kernels.numbers(dtype)
        self._attention = kernels.grouped_query_attention(config, dtype)
        self.kv_cache = KVCache(
            kernels, self._attention, layers=config.layers, slots=slots, dtype=numbers
        )
        self.kernels, self._dtype, self._slots = kernels, numbers, slots
        self._itemsize = 4 if numbers == ms.float32 else 2
        weights, joined = Weights(read, kernels, dtype), kernels.gate_tensors == 1
        self.embedding = weights.tensor("embed_tokens.weight")
        self._lm_head = self.embedding if config.tied else weights.tensor("lm_head.weight")
        self._norm = weights.tensor("norm.weight")
        self._layers = [
            _read_layer(weights, config, index, joined=joined) for index in range(config.layers)
        ]
        self._together = in_graphs(self._layers)
        self._all = [self.embedding, self._norm, self._lm_head, *chain(*self._layers)]
        self._sharding = sharding_of(kernels, share, whole.vocab)
        self._graphs = DecoderGraphs(config, kernels, self._attention, self._sharding)
        self._masks_of = (0, False)  # tokens, first
        self._last_masks: list[Tensor] = []

    def embed(self, ids: NDArray[np.int64]) -> Tensor:
        """The embeddings ``[n, hidden]`` of token ids ``[n]``."""
        return self._sharding.embed(self.embedding, self._sharding.ids(ids))

    def prefill(self, embeds: Tensor, index: Index, positions: NDArray[np.int64]) -> Prefilled:
        """Run a prompt of n tokens at ``positions`` ``[n]`` or ``[3, n]``.

        The embedding of each is the row of ``embeds`` ``[m, hidden]`` that ``index`` ``[n]`` names.
        """
        length = len(index)
        prompt = self._padded(embeds, index, positions)
        run = self._in_one if len(prompt.blocks) == 1 else self._in_blocks
        next_token, kept = run(prompt)
        delta = int(positions.max()) + 1 - length
        return Prefilled(kept[::2], kept[1::2], length, delta, next_token)

    def extend(
        self,
        before: Prefilled,
        common: int,
        embeds: Tensor,
        index: Index,
        positions: NDArray[np.int64],
    ) -> Prefilled:
        """As ``prefill``, of a prompt whose first ``common`` tokens are those of ``before``; what
        else is given is of the others.
        """
        length = common + len(index)
        pairs = zip(before.keys, before.values, strict=True)
        kept = [tensor[:, :common] for pair in pairs for tensor in pair]
        next_token, kept = self._in_blocks(self._padded(embeds, index, positions, common), kept)
        delta = int(positions.max()) + 1 - length
        return Prefilled(kept[::2], kept[1::2], length, delta, next_token)

    def insert(self, slot: int, prefilled: Prefilled, new_tokens: int) -> None:
        """Put a prompt into a slot that is free, with room for ``new_tokens`` more."""
        pairs = zip(prefilled.keys, prefilled.values, strict=True)
        self.kv_cache.insert(
            slot,
            list(chain.from_iterable(pairs)),
            length=prefilled.length,
            reserve=prefilled.length + new_tokens,
            rope_delta=prefilled.rope_delta,
        )

    def free(self, slot: int) -> None:
        """Forget the sequence in a slot."""
        self.kv_cache.free(slot)

    def step(self, ids: NDArray[np.int64]) -> NextToken:
        """Append a token to every slot. What follows in free slots means nothing."""
        cache = self.kv_cache
        turn = self._rope_tables(self._rope(cache.positions))
        tensors = [*cache.index(), *turn, *self._all, *cache.tensors]
        next_token = self._graphs.step(self._sharding.ids(ids), *tensors)
        cache.advance()
        return NextToken(*next_token)

    def shapes(self, length: int) -> set[object]:
        """What graphs a prompt of ``length`` runs through."""
        first, *more = self._blocks(length)
        return {("first", first), *(("later", rows) for rows in more)}

    def need(self, prompt: int, new_tokens: int) -> int:
        """Bytes that a prompt of so many tokens takes at most, on its way and in its slot."""
        config, size = self.config, self._itemsize
        # Shorter caches that stay take less than this one again.
        cached = 2 * self._slots * cache_length(prompt + new_tokens)
        cached *= self.kernels.cache_itemsize(self._dtype)
        kept = (self.kept * prompt * size + cached) * config.kv_per_token
        rows = self._block_rows(prompt)
        scores = self._score_bytes(rows, prompt)
        turned = (config.heads + config.kv_heads) * config.head_dim
        # Blocks of two sizes: an allocator does not put all of one where the other was.
        inner = size * min(prompt, 2 * rows) * (4 * config.mlp + 6 * config.hidden + 4 * turned)
        joined = size * 4 * prompt * config.kv_heads * config.head_dim
        total = kept + scores + inner + joined + 2 * size * prompt * config.hidden
        return total * 5 // 4  # what it loses to gaps, measured with prompts of many lengths (CPU)

    def _padded(
        self, embeds: Tensor, index: Index, positions: NDArray[np.int64], before: int = 0
    ) -> _Prompt:
        """The prompt filled up to whole blocks, or what comes after ``before`` tokens of it."""
        length, blocks = len(index), self._blocks(len(index))
        fill = sum(blocks) - length
        cos, sin = (np.pad(table, ((0, fill), (0, 0))) for table in self._rope(positions))
        return _Prompt(
            embeds,
            np.pad(index, (0, fill)),
            (cos, sin),
            blocks,
            Tensor(np.array([(length - 1) % blocks[0]], np.int32)),
            self._attention.padding_mask(before + length, before + length + fill),
        )

    def _in_one(self, prompt: _Prompt) -> tuple[NextToken, list[Tensor]]:
        """A prompt of a single block; back come its keys and values, too, layer by layer."""
        x, turn = self._rows(prompt.embeds, prompt.index), self._rope_tables(prompt.rope)
        *most, final = self._together if x.shape[0] <= _SHORT else self._layers
        x, kept = self._first_block(x, turn, most)
        masks = self._masks(x.shape[0], first=True)
        ends = prompt.row, prompt.padding, self._norm, self._lm_head
        found = self._graphs.last_layer(x, *turn, len(masks), *ends, *masks, *final)
        return NextToken(*found[:3]), [*kept, *found[3:]]

    def _in_blocks(
        self, prompt: _Prompt, before: Sequence[Tensor] = ()
    ) -> tuple[NextToken, list[Tensor]]:
        """As ``_in_one``, block by block; keys and values of what comes ``before`` may be known."""
        *layers, final = self._layers
        kept: list[Any] = [*before]
        start = 0
        for count in prompt.blocks:
            here = slice(start, start + count)
            x = self._rows(prompt.embeds, prompt.index[here])
            turn = self._rope_tables((prompt.rope[0][here], prompt.rope[1][here]))
            if not kept:
                x, kept = self._first_block(x, turn, layers)
                kept += None, None
            else:
                for index, layer in enumerate(layers):
                    pair = slice(2 * index, 2 * index + 2)
                    x, *kept[pair] = self._later_block(x, turn, layer, *kept[pair])
            q, k, v = self._graphs.project(x, *turn, *final)
            kept[-2:] = self._appended(kept[-2], k), self._appended(kept[-1], v)
            start += count
        x = self._last_row(prompt, x, q, *kept[-2:])
        return NextToken(*self._graphs.head(x, self._norm, self._lm_head)), kept

    def _first_block(
        self, x: Tensor, turn: Rope, layers: list[list[Tensor]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Layers over the first block, those of each list in one graph."""
        masks, kept = self._masks(x.shape[0], first=True), []
        for some in layers:
            x, *more = self._graphs.first_block(x, *turn, len(masks), *masks, *some)
            kept += more
        return x, kept

    def _later_block(
        self, x: Tensor, turn: Rope, layer: list[Tensor], keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over a block after the first; ``keys`` and ``values`` of what came before.

        Padding comes last: causal masks hide it from all that counts.
        """
        q, k, v = self._graphs.project(x, *turn, *layer)
        all_keys, all_values = self._appended(keys, k), self._appended(values, v)
        masks = self._masks(x.shape[0], first=False)
        attended = self._attention.later(
            q, k=k, past=keys, keys=all_keys, values=all_values, masks=tuple(masks)
        )
        x = self._graphs.finish(x, attended, *layer)
        return x, all_keys, all_values

    def _last_row(
        self, prompt: _Prompt, x: Tensor, q: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """The last layer for the last token of the last block ``x``, ``[1, hidden]``."""
        q = self._attention.token(q, prompt.row)
        attended = self._attention.last(q, keys, values, prompt.padding)
        x = self.kernels.gather(x, prompt.row)
        last: Tensor = self._graphs.finish_row(x, attended, *self._layers[-1])
        return last

    def _appended(self, before: Tensor | None, new: Tensor) -> Tensor:
        """Keys or values, by head, after those of earlier blocks, if any."""
        return new if before is None else self.kernels.concat((before, new), 1)

    def _rows(self, table: Tensor, index: Index) -> Tensor:
        return self.kernels.gather(table, Tensor(index.astype(np.int32)))

    def _masks(self, tokens: int, *, first: bool) -> list[Tensor]:
        """The causal masks of a ``first`` block, or the one of a later; the last are kept."""
        if self._masks_of != (tokens, first):
            self._masks_of = (tokens, first)
            masks = self._attention.first_masks if first else self._attention.later_masks
            self._last_masks = masks(tokens)
        return self._last_masks

    def _rope(self, positions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        config = self.config
        return rope(positions, config.head_dim, config.rope_theta, config.mrope_section)

    def _rope_tables(self, tables: tuple[NDArray[Any], NDArray[Any]]) -> Rope:
        """For the queries and the keys, which have their positions at once."""
        heads = self.config.heads + self.config.kv_heads
        return self.kernels.rope_tables(*tables, heads, self._dtype)

    def _blocks(self, length: int) -> list[int]:
        """Tokens of each block of a prompt; the last is padded."""
        most = self._block_rows(length)
        whole, rest = divmod(length, most)
        return [most] * whole + [self.kernels.padded(rest)] * (rest > 0)

    def _block_rows(self, length: int) -> int:
        """Tokens of a prompt of ``length`` to prefill together, a power of two."""
        rows = MOST_TOKENS if length <= MOST_TOKENS else BLOCK_TOKENS
        while rows > FEWEST_TOKENS and self._score_bytes(rows, length) > self.score_bytes:
            rows //= 2
        return rows

    def _score_bytes(self, rows: int, length: int) -> int:
        return self._attention.score_bytes(min(rows, length), length)


def _read_layer(
    weights: Weights, config: DecoderConfig, index: int, *, joined: bool
) -> list[Tensor]:
    """The tensors of a layer at their places in ``decoder_graphs``; gate and up ``joined``."""
    layer = f"layers.{index}"
    qkv = (f"{layer}.self_attn.{name}_proj" for name in "qkv")
    gate, up = (f"{layer}.mlp.{name}_proj.weight" for name in ("gate", "up"))
    return [
        weights.tensor(f"{layer}.input_layernorm.weight"),
        weights.tensor(f"{layer}.post_attention_layernorm.weight"),
        *weights.pair(*qkv, biased=config.qkv_bias),
        weights.tensor(f"{layer}.self_attn.o_proj.weight"),
        weights.tensor(f"{layer}.mlp.down_proj.weight"),
        *([weights.tensor(gate, up)] if joined else [weights.tensor(gate), weights.tensor(up)]),
    ]
