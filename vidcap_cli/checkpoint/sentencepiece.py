"""Llama tokenizers that ship as a sentencepiece ``tokenizer.model``, as ``tokenizers.Tokenizer``.

The same conversion as transformers' ``LlamaConverter``: byte-pair merges are read off the pieces
(a merge ranks as the piece it makes), bytes stand in for what no piece covers. ``legacy`` and
``add_prefix_space`` of ``tokenizer_config.json`` decide where a leading space is assumed.

The file is a protocol buffer; the three of its fields that matter are read here, because the
sentencepiece library does not tell user-defined pieces (Yi's chat tokens) from others.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vidcap_cli.errors import ModelError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how sentencepiece writes a space
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    kind: int


def convert(file: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of ``file``, under the ``tokenizer_config.json`` given as ``settings``."""
    try:
        pieces = _pieces(file.read_bytes())
    except (ValueError, LookupError, struct.error) as error:
        raise ModelError(f"{file} is not a byte-pair sentencepiece model: {error}") from error
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == _UNKNOWN), None)
    bpe = models.BPE(
        ids, _merges(pieces, ids), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    prefix = settings.get("add_prefix_space") is not False
    # Absent counts as true, as it did when these tokenizers were made.
    if settings.get("legacy") is not False:
        spaces = [normalizers.Prepend(SPACE)] if prefix else []
        tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", SPACE)])
    else:
        scheme = "first" if prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind != _USER_DEFINED)
            for piece in pieces
            if piece.kind in {_UNKNOWN, _CONTROL, _USER_DEFINED}
        ]
    )
    return tokenizer


def _merges(pieces: list[_Piece], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best piece first."""
    found = []
    for piece in pieces:
        pairs = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        known = [(left, right) for left, right in pairs if left in ids and right in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(piece.score, len(left), len(right), (left, right)) for left, right in known]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [merge[3] for merge in found]


def _pieces(model: bytes) -> list[_Piece]:
    """The vocabulary in a ModelProto; ValueError when it is none or not of byte pairs."""
    pieces, kind = [], 0
    for number, content in _fields(model):
        if number == 1 and isinstance(content, bytes):
            fields = dict(_fields(content))
            text, score = fields[1], fields.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError("a piece without its text")
            (rank,) = struct.unpack("<f", score)
            pieces.append(_Piece(text.decode(), rank, int(fields.get(3, 1))))
        elif number == 2 and isinstance(content, bytes):
            kind = int(dict(_fields(content)).get(3, 1))
    if not pieces or kind != _BPE:
        raise ValueError("it has no vocabulary of byte pairs")
    return pieces


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and contents of a protocol buffer message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            size, at = _varint(message, at)
        elif not size:
            raise ValueError(f"a field of an unknown kind ({wire})")
        if at + size > len(message):
            raise ValueError("it was cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
