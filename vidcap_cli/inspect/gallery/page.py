"""The page: its parts put together into one HTML file that needs nothing else.

Promises. Text from a table reaches the page as JSON alone, in which no character can end an element
or begin a tag; the scripts show it as text. A Content-Security-Policy lets nothing run but the
scripts of the page, and nothing be loaded but pictures and videos that lie beside it.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

_STYLES = ("page.css", "charts.css", "cards.css")
# In this order: what a script uses stands before it.
_SCRIPTS = ("element.js", "rows.js", "view.js", "charts.js", "cards.js", "player.js", "gallery.js")
_PIECE = '<script type="application/json" class="piece">'
_UNSAFE = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def as_json(data: Any) -> str:
    """``data`` as JSON that may stand in an HTML element or a script."""
    found = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return found.translate(_UNSAFE)


def page(
    title: str,
    about: dict[str, Any],
    pieces: Iterable[str] = (),
    pictures: Mapping[int, str] | None = None,
) -> bytes:
    """The page. ``about`` is what it has to know of the table. ``pieces`` of rows, as JSON, and
    ``pictures`` by row, in Base64, are those that it carries itself.
    """
    script = "\n".join(_read(name) for name in _SCRIPTS)
    style = "\n".join(_read(name) for name in _STYLES)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)} 'strict-dynamic'",
            f"style-src {_hash(style)}",
            "img-src 'self' data: file:",
            "media-src 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    values = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "about": as_json(about),
        "pictures": as_json(pictures or {}),
        "pieces": "\n".join(f"{_PIECE}{piece}</script>" for piece in pieces),
    }
    # In one go: a table may hold what looks like one of these names.
    made = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _read("page.html"))
    return made.encode("utf-8", "replace")


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
