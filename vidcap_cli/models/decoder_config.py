"""Sizes of the language models, from their ``config.json``: Llama and Qwen2 families."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidcap_cli.checkpoint.settings import check_settings, rope_of
from vidcap_cli.errors import ModelError

SHORTEST = 256  # tokens of the smallest cache of keys and values


def cache_length(tokens: int) -> int:
    """Tokens that a slot has in a cache for sequences of at most ``tokens``."""
    return max(SHORTEST, 1 << (tokens - 1).bit_length())


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of a language model. ``mrope_section`` has the shares of half a head, or is None.

    ``tied``: the embeddings are the head, too; ``tied_by_itself``: the language model's own
    settings say so, not only those of the model around it.
    """

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rope_theta: float
    rms_norm_eps: float
    mrope_section: tuple[int, ...] | None
    tied: bool
    qkv_bias: bool
    tied_by_itself: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """From a ``config.json``; what it leaves out is what transformers' classes assume.

        Raises ModelError for what the engines do not compute and for sizes that do not fit.
        """
        check_settings(config)
        text: Mapping[str, Any] = config.get("text_config") or config
        qwen = str(config.get("model_type")).startswith("qwen2")
        usual: Mapping[str, Any] = _QWEN2_VL if qwen else _LLAMA
        given = {**usual, **{key: value for key, value in text.items() if value is not None}}
        hidden, heads = int(given["hidden_size"]), int(given["num_attention_heads"])
        # Older Llama files leave the number out where every head has its own keys.
        kv_heads = text.get("num_key_value_heads", usual["num_key_value_heads"]) or heads
        if heads % kv_heads or not (given.get("head_dim") or hidden % heads == 0):
            raise ModelError(
                f"config.json: num_attention_heads {heads} fits neither hidden_size {hidden} nor "
                f"num_key_value_heads {kv_heads}."
            )
        head_dim = int(given.get("head_dim") or hidden // heads)
        if head_dim % 2:
            raise ModelError(f"config.json: a head of {head_dim} numbers has no pairs to rotate.")
        rope = rope_of(text)
        # transformers 4 asks the language model's settings, 5 those of the model around it.
        by_itself = text.get("tie_word_embeddings") is True
        return cls(
            hidden=hidden,
            mlp=int(given["intermediate_size"]),
            layers=int(given["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(kv_heads),
            head_dim=head_dim,
            vocab=int(given["vocab_size"]),
            rope_theta=rope.theta or float(usual["rope_theta"]),
            rms_norm_eps=float(given["rms_norm_eps"]),
            mrope_section=rope.sections,
            tied=by_itself or config.get("tie_word_embeddings") is True,
            qkv_bias=qwen,
            tied_by_itself=by_itself,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, as in the files."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (self.vocab, self.hidden)}
        for index in range(self.layers):
            layer = f"layers.{index}"
            for name, rows in (("q", wide), ("k", narrow), ("v", narrow)):
                shapes[f"{layer}.self_attn.{name}_proj.weight"] = (rows, self.hidden)
                if self.qkv_bias:
                    shapes[f"{layer}.self_attn.{name}_proj.bias"] = (rows,)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (self.hidden, wide)
            shapes[f"{layer}.mlp.gate_proj.weight"] = (self.mlp, self.hidden)
            shapes[f"{layer}.mlp.up_proj.weight"] = (self.mlp, self.hidden)
            shapes[f"{layer}.mlp.down_proj.weight"] = (self.hidden, self.mlp)
            shapes[f"{layer}.input_layernorm.weight"] = (self.hidden,)
            shapes[f"{layer}.post_attention_layernorm.weight"] = (self.hidden,)
        shapes["norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.hidden)
        return shapes

    @property
    def kv_per_token(self) -> int:
        """How many numbers the keys and values of a token are, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


_LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "vocab_size": 32000,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
}
_QWEN2_VL = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-5,
}
