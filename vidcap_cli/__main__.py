"""Entry point and the one error gate: errors become a sentence, bugs keep their traceback."""

import os
import sys

from vidcap_cli.errors import FAILED, INTERRUPTED, VidcapError


def main() -> None:
    """Run the command line and exit with the code of ``errors``."""
    if "_VIDCAP_COMPLETE" in os.environ:
        # typer folds an option's help at the width of the terminal, and of a folded one some
        # shells offer the second line as a choice of its own.
        os.environ["TERMINAL_WIDTH"] = "10000"
    from vidcap_cli.cli import app  # noqa: PLC0415 - an error while importing is shown below too

    try:
        try:
            app()
        except SystemExit:
            # What is still buffered may find no reader; at exit Python would complain of that.
            print(end="", flush=True)  # noqa: T201
            raise
    except VidcapError as error:
        _explain(error)
        if os.environ.get("VIDCAP_DEBUG"):
            raise
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("vidcap: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our stdout left, as `head` does; flushing again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


def _explain(error: VidcapError) -> None:
    print(f"vidcap: {error}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
