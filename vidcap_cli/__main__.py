"""Entry point and the one error gate: errors become a sentence, bugs keep their traceback.

Ctrl-C ends the command quietly from the first line on. While the commands are still imported
there is nothing to clean up, and an exception that is raised inside an import may be turned into
another one or be lost; so the process ends at once then.
"""

import os
import sys

# In the working directory may lie a random.py of the user's. `python -m` looks there first, and an
# empty entry of PYTHONPATH means it, too.
if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]
if os.environ.get("PYTHONPATH") and "" in os.environ["PYTHONPATH"].split(os.pathsep):
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # noqa: PTH109 - pathlib takes a while

import signal
from types import FrameType, TracebackType


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, b"vidcap: interrupted\n")
    os._exit(130)  # INTERRUPTED, which is not imported yet


_MINE = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so under nohup
if _MINE:
    signal.signal(signal.SIGINT, _leave)

import atexit  # noqa: E402 - what is imported from here on takes a while
import errno  # noqa: E402
import locale  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from vidcap_cli.errors import FAILED, INTERRUPTED, VidcapError  # noqa: E402
from vidcap_cli.imports import leave_out_pandas  # noqa: E402

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# What the place that is written to may say at any time: full, gone, read-only or broken.
_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT}
_TAIL_SECONDS = 1.2
_SEEN: list[int] = []  # interrupts: libraries turn KeyboardInterrupt into other exceptions


def main() -> None:
    """Run the command line and end the process with the code of ``errors``.

    Once all is tidied up the process ends at once. Threads of libraries outlive the interpreter,
    and one of pyarrow's that lets go of a buffer of Python's while it is taken down aborts the
    process (apache/arrow issue 49942).
    """
    code = [FAILED]
    atexit.register(lambda: _end(code[0]))  # before those of the commands, and so after them
    try:
        run()
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def run() -> None:
    """Run the command line; SystemExit with the code of ``errors`` is raised at its end."""
    _speak_utf8()
    leave_out_pandas()
    if _MINE:  # before typer is imported, whose hook calls the one that is there then
        sys.unraisablehook, sys.excepthook = _again, _unprinted
    if _is_about_completion():
        from vidcap_cli.completing import prepare  # noqa: PLC0415 - for these alone

        prepare()
    from vidcap_cli.cli import app  # noqa: PLC0415 - an error while importing is shown below too

    try:
        if _MINE:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            app(args=_words())
        except SystemExit:
            # What is still buffered may find no reader; at exit Python would complain of that.
            print(end="", flush=True)  # noqa: T201
            raise
    except SystemExit:
        raise
    except BaseException as error:
        code = _answer(error)
        if code is None or _debugging():
            raise
        if code == INTERRUPTED:
            _end(code)
        sys.exit(code)
    finally:
        if _MINE:  # what is left takes a few milliseconds
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_about_completion() -> bool:
    """Whether a shell asks, or its script is to be shown or installed."""
    asked = sys.argv[1:2]
    return "_VIDCAP_COMPLETE" in os.environ or bool(asked and asked[0].endswith("-completion"))


def _words() -> list[str]:
    """What was typed after ``vidcap``, with the options that files and the environment give."""
    from vidcap_cli.presets import presets  # noqa: PLC0415 - it may raise

    typed = sys.argv[1:]
    if "_VIDCAP_COMPLETE" in os.environ or {"-h", "--help"} & {*typed}:
        return typed
    added = presets(typed)
    if added.words and not {"-q", "--quiet"} & {*typed, *added.words}:
        _explain(f"options from {added}")
    return [*typed[:1], *added.words, *typed[1:]]


def _end(code: int) -> None:
    """End here and now, all said and nothing left to clean up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream:  # None where it was closed from the beginning
                stream.flush()
    if os.environ.get("MS_ROLE") == "MS_WORKER":
        # msrun shows a log by `tail -f`, which may look at it once a second, and ends that with us.
        time.sleep(_TAIL_SECONDS)
    os._exit(code)


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    Processes of a run tell each other paths in files; all of them must read the same bytes as the
    same text. What goes to a terminal is still written as the locale wants it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execve(  # noqa: S606 - the same program again
            sys.executable,
            [sys.executable, "-X", "utf8", *sys.orig_argv[1:]],
            {**os.environ, "PYTHONUTF8": "1"},
        )
    wanted = locale.getencoding()
    for stream in (sys.stdout, sys.stderr):
        if sys.flags.utf8_mode and stream.isatty() and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=wanted, errors="replace")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _SEEN.append(1)
    raise KeyboardInterrupt


def _again(lost: "UnraisableHookArgs") -> None:
    """Raise an interrupt once more that came where Python would only print it and go on."""
    if lost.exc_type is KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
    else:
        sys.__unraisablehook__(lost)


def _unprinted(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print no interrupt that C code hands over: where an import of numpy's fails, numpy prints
    why and raises ImportError instead.
    """
    if _debugging() or kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, traceback)


def _answer(error: BaseException) -> int | None:
    """Say what ``error`` means and give the exit code; None for a bug."""
    if isinstance(error, VidcapError):
        _explain(str(error))
        return error.exit_code
    if isinstance(error, KeyboardInterrupt) or _SEEN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _explain("interrupted")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # The reader of our stdout left, as `head` does; flushing again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, OSError):
        _explain(_refusal(error))
        return FAILED
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        _explain(f"{error.object}: this name is not UTF-8; rename it, and repeat the command.")
        return FAILED
    return None


def _refusal(error: OSError) -> str:
    """What the system refused, where, and what to do next."""
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = "VIDCAP_DEBUG=1 before the command shows where that was."
    if error.errno in _PLACE:
        remedy = (
            "Finished rows stay on the disk; make room or bring the place back, and repeat the "
            "command."
        )
    return f"{place}{reason}. {remedy}"


def _debugging() -> bool:
    return bool(os.environ.get("VIDCAP_DEBUG"))


def _explain(text: str) -> None:
    from vidcap_cli.view.words import folded  # noqa: PLC0415 - most commands end without

    print(folded(f"vidcap: {text}"), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
