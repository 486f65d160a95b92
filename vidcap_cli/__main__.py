"""Entry point and the one error gate: errors become a sentence, bugs keep their traceback."""

import os
import sys

from vidcap_cli.errors import FAILED, INTERRUPTED, VidcapError


def main() -> None:
    """Run the command line and exit with the code of ``errors``."""
    from vidcap_cli.cli import app  # noqa: PLC0415 - an error while importing is shown below too

    try:
        app()
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
