"""Checkpoints by their name on the Hugging Face hub, such as ``Qwen/Qwen2-VL-2B-Instruct``.

The local cache is looked at first and used without asking the hub when it holds all files.
Otherwise they are downloaded into it, with a progress bar on a terminal; a download that was cut
off continues where it stopped. Only safetensors, JSON and tokenizer files at the top of the
repository are taken: no pickles, no code. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and
``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub.
"""

import re
import sys
from pathlib import Path

from vidcap_cli.checkpoint.files import lacking
from vidcap_cli.errors import ModelError
from vidcap_cli.view.words import folded

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SETTINGS, _WEIGHTS = ["*.json", "tokenizer.model"], ["*.safetensors"]
# Copies in other formats lie in folders; consolidated files hold the weights a second time.
_UNWANTED = ["*/*", "consolidated*"]
_TRIES = 5


def is_hub_name(name: str) -> bool:
    """Whether ``name`` can only be a name on the hub: one slash, and no such folder here."""
    return bool(_NAME.fullmatch(name)) and not Path(name).parent.is_dir()


def fetch(name: str, *, weights: bool = True) -> Path:
    """The folder of a checkpoint, or of all but its ``weights``, downloaded unless it is there.

    Raises ModelError that says which folder to fill with what when it cannot be had.
    """
    folder = _cached(name)
    if folder and not lacking(folder, weights=weights):
        return folder
    folder, reason = _download(name, _SETTINGS + _WEIGHTS * weights)
    lacks = lacking(folder, weights=weights) if folder else []
    if folder is None or lacks:
        missing = f"it lacks {', '.join(lacks)}" if folder else reason
        more = ", and all *.safetensors with their index.json" if weights else ""
        raise ModelError(
            f"{name} is neither a folder here nor complete in the Hugging Face cache, and it "
            f"could not be downloaded: {missing}. Fill {Path(name).absolute()} with its "
            "config.json, generation_config.json, preprocessor_config.json, tokenizer.json (or "
            f"tokenizer.model) and tokenizer_config.json{more}; or name another model, a folder or "
            "nano, which is bundled."
        )
    return folder


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for names on the hub
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(name: str, wanted: list[str]) -> tuple[Path | None, str]:
    """The folder, or None and why there is none."""
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415
    from requests import RequestException  # noqa: PLC0415 - what huggingface_hub downloads with

    if not sys.stderr.isatty():
        disable_progress_bars()
    where = constants.ENDPOINT
    print(folded(f"downloading {name} from {where}"), file=sys.stderr)  # noqa: T201 - to the user
    reason = ""
    for _ in range(_TRIES):
        try:
            found = snapshot_download(name, allow_patterns=wanted, ignore_patterns=_UNWANTED)
        except GatedRepoError:
            return None, f"its authors ask for consent at {where}/{name}, then for `hf auth login`"
        except RepositoryNotFoundError:
            return None, f"{where} has no checkpoint of that name, or wants `hf auth login` for it"
        except LocalEntryNotFoundError:
            return None, f"{where} cannot be reached"
        except (HfHubHTTPError, RequestException, OSError) as error:
            reason = f"{where}: {str(error).strip().splitlines()[0]}"
            if isinstance(error, HfHubHTTPError) or not isinstance(error, RequestException):
                break
            # A connection that broke off: what came is kept, and the next try goes on from there.
        else:
            return Path(found), ""
    return None, reason
