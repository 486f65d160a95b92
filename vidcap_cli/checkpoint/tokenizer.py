"""The tokenizer of a checkpoint folder, as transformers' classes would set it up."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.errors import ModelError

_MOST_ADDED = 10_000  # one by one in the library: a hundred thousand take seconds
_ONCE_A_TOKEN = b'"single_word"'  # in tokenizer.json, where an added token must have this key


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``, from ``tokenizer.json`` or a sentencepiece ``tokenizer.model``.

    Encoding with special tokens begins a text as transformers would. Raises ModelError when both
    files are missing, or unreadable.
    """
    file, settings = folder / "tokenizer.json", _tokenizer_settings(folder)
    if file.is_file():
        _check_count(folder, file.read_bytes().count(_ONCE_A_TOKEN))
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust library raises plain Exception
            raise ModelError(f"{file} is not a tokenizer: {error}") from error
    elif (folder / "tokenizer.model").is_file():
        from vidcap_cli.checkpoint.sentencepiece import convert  # noqa: PLC0415 - rare

        tokenizer = convert(folder / "tokenizer.model", settings)
    else:
        raise ModelError(f"{folder} has no tokenizer.json; download the checkpoint again.")
    # All at once: each call goes through all tokens that were ever added.
    tokenizer.add_special_tokens(
        [
            token
            for token in _added_tokens(folder, settings)
            if tokenizer.token_to_id(token.content) is None
        ]
    )
    if str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer"):
        # transformers' class sets this itself, whatever tokenizer.json says.
        tokenizer.post_processor = _beginning(tokenizer, settings)
    return tokenizer


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _added_tokens(folder: Path, settings: dict[str, Any]) -> list[AddedToken]:
    """Tokens that were added to the vocabulary afterwards, in the order of their ids."""
    file = folder / "added_tokens.json"
    plain = read_json(file) if file.is_file() else {}
    decoder = settings.get("added_tokens_decoder") or {}
    damaged = ModelError(f"the added tokens of {folder} are damaged; download it again.")
    if not isinstance(decoder, dict):
        raise damaged
    _check_count(folder, len(plain) + len(decoder))
    try:
        found = {int(number): AddedToken(text, special=True) for text, number in plain.items()}
        for number, token in decoder.items():
            sides = {side: bool(token.get(side)) for side in ("lstrip", "rstrip", "single_word")}
            found[int(number)] = AddedToken(token["content"], special=True, **sides)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged from error
    return [token for _, token in sorted(found.items(), key=lambda entry: entry[0])]


def _check_count(folder: Path, added: int) -> None:
    if added > _MOST_ADDED:
        raise ModelError(f"{folder} has more than {_MOST_ADDED:,} added tokens: it is damaged.")


def _beginning(tokenizer: Tokenizer, settings: dict[str, Any]) -> Any:
    """A post-processor that puts the beginning-of-text token first, where one is wanted."""
    text = _content(settings.get("bos_token")) or "<s>"
    number = tokenizer.token_to_id(text)
    if number is None or settings.get("add_bos_token") is False:
        return processors.TemplateProcessing(single="$A", special_tokens=[])
    return processors.TemplateProcessing(single=f"{text} $A", special_tokens=[(text, number)])


def eos_token(folder: Path) -> str:
    """The token that ends a text by ``tokenizer_config.json``, "" where it names none."""
    return _content(_tokenizer_settings(folder).get("eos_token"))


def _content(token: Any) -> str:
    """The text of a token of ``tokenizer_config.json``, plain or an object; "" for none."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")
