"""What typer's completion lacks in some shells: whole lines of help, and zsh's first TAB.

zsh loads a script of completion when TAB is first pressed, and wants that answered by the script
itself. typer's only makes its function known, so that the TAB is lost.
"""

import os
from contextlib import suppress

_ANSWER = """
if [ "$funcstack[1]" = "_%(prog_name)s" ]; then
  %(complete_func)s "$@"
fi
"""


def prepare() -> None:
    """Let typer answer TAB, and print and install its scripts, as shells need it."""
    # An option's help is folded at the width of the terminal, and of a folded one some shells
    # offer the second line as a choice of its own.
    os.environ["TERMINAL_WIDTH"] = "10000"
    with suppress(ImportError, AttributeError):  # a later typer's script is taken as it is
        from typer import _completion_classes, _completion_shared  # noqa: PLC0415 - not typer's API

        script = _completion_shared.COMPLETION_SCRIPT_ZSH.rstrip() + _ANSWER
        _completion_shared._completion_scripts["zsh"] = script  # noqa: SLF001 - it takes no other
        _completion_classes.ZshComplete.source_template = script
