"""What a process leaves out that a library would import in passing."""

import sys
from collections.abc import Callable
from typing import Any


class _Refused:
    """A finder of modules that knows which are not to be found."""

    def __init__(self, refused: Callable[[str], bool]) -> None:
        self._refused = refused

    def find_spec(self, name: str, *_: Any) -> None:
        """As importlib calls it; None leaves ``name`` to the usual finders."""
        if self._refused(name):
            raise ModuleNotFoundError(f"{name} is left out here", name=name)


def refuse(refused: Callable[[str], bool]) -> None:
    """From now on have importing a module raise ModuleNotFoundError where ``refused(name)``."""
    sys.meta_path.insert(0, _Refused(refused))


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas, which it does to recognise its objects where it is there.

    No vidcap process makes any, and it takes half a second and 40 MB.
    """
    refuse(lambda name: name == "pandas")
