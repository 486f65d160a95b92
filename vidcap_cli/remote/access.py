"""Access to files elsewhere: what reads an address, how a file is described, why one does not come.

The extra ``vidcap[remote]`` has what this needs: fsspec, and what it reads addresses of S3 with.
Who may read what, endpoints and proxies are set where these programs look for it (the usual files
and variables of AWS and Hugging Face; ``HTTPS_PROXY``; ``FSSPEC_S3_ANON=true``).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from vidcap_cli.addresses import INSTEAD
from vidcap_cli.statuses import Status
from vidcap_cli.video import VideoError

_SILENT_SECONDS = 30.0  # of a connection that brings nothing
# By scheme the package that fsspec reads it with, and how it is installed.
_PACKAGES = {
    "http": ("aiohttp", "'fsspec[http]'"),
    "https": ("aiohttp", "'fsspec[http]'"),
    "s3": ("s3fs", "s3fs"),
    "s3a": ("s3fs", "s3fs"),
    "hf": ("huggingface_hub", "fsspec"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
}
# What S3 and others say of a file that is not there, or not for us.
_ABSENT = {404, 410, "404", "NoSuchKey", "NoSuchBucket"}
_PASSING = {408, 425, 429}
# Under which names they say what changes with a file.
_MARKS = {
    *("ETag", "etag", "LastModified", "Last-Modified", "mtime", "updated", "md5Hash", "crc32c"),
    *("Content-MD5", "Digest", "blob_id", "oid", "sha256"),
}


def unreadable(address: str) -> str | None:
    """Why files at such an address cannot be read here; None when they can."""
    scheme = address.partition(":")[0].lower()
    if scheme not in _PACKAGES:
        return f"{scheme}:// files are not read ({', '.join(_PACKAGES)} are); {INSTEAD}"
    package, command = _PACKAGES[scheme]
    if find_spec("fsspec") is None or find_spec(package) is None:
        return (
            f"{scheme}:// files need more packages, of the extra vidcap[remote]: pip install "
            f"{command}; or {INSTEAD}"
        )
    return None


def check(address: str) -> None:
    """Raise VideoError for an address that cannot be read: another try only helps where a package
    is installed meanwhile.
    """
    if why := unreadable(address):
        known = address.partition(":")[0].lower() in _PACKAGES
        raise VideoError(Status.DOWNLOAD_ERROR if known else Status.MISSING_FILE, why)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file elsewhere as its server describes it: size in bytes, and what changes with it.

    Either is None when the server does not say it.
    """

    size: int | None
    version: str | None


def look(address: str) -> tuple[Any, str, Remote]:
    """The file system of an address, the path there, and what is said of the file."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - of the extra

    options: dict[str, Any] = {}
    if address.lower().startswith("http"):
        from aiohttp import ClientTimeout  # noqa: PLC0415 - of the extra

        timeout = ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    system, path = url_to_fs(address, **options)
    system.invalidate_cache()
    said = system.info(path)
    if said.get("type") == "directory":
        raise VideoError(Status.DECODE_ERROR, "this is a folder, not a video file")
    marks = sorted(f"{key}={said[key]}" for key in said.keys() & _MARKS)
    version = hashlib.sha256(" ".join(marks).encode()).hexdigest()[:16] if marks else None
    return system, path, Remote(said.get("size"), version)


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _codes(error: BaseException) -> set[Any]:
    """What servers answered, as numbers of HTTP or words of S3."""
    codes: set[Any] = set()
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore's
            codes.add(response.get("Error", {}).get("Code"))
        codes |= {getattr(cause, "status", None), getattr(response, "status_code", None)}
    return codes - {None}


def failure(error: Exception) -> VideoError:
    """What becomes of the row."""
    codes, root = _codes(error), list(_causes(error))[-1]
    if codes & _ABSENT or (not codes and isinstance(root, FileNotFoundError)):
        return VideoError(Status.MISSING_FILE, "there is no such file at this address")
    words = str(root).strip().splitlines() or [""]
    named = ", ".join(str(code) for code in codes)
    return VideoError(
        Status.DOWNLOAD_ERROR,
        f"cannot be downloaded: {type(root).__name__} {words[0][:200]}"
        + (f" ({named})" if named and named not in words[0] else ""),
    )


def is_final(error: Exception) -> bool:
    """Whether trying again is of no use."""
    numbers = {code for code in _codes(error) if isinstance(code, int)}
    refused = any(400 <= code < 500 and code not in _PASSING for code in numbers)
    kinds = {type(cause).__name__ for cause in _causes(error)}
    return bool(refused or kinds & {"PermissionError", "NoCredentialsError", "ImportError"})
