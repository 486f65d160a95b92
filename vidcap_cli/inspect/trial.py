"""What may hang or crash, tried in a process of its own with a time limit.

A program says how far it got, a step at a time, so that what came before a crash is known.
"""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

_SAY = """
import json, sys, time
def say(**facts): print(json.dumps(facts), flush=True)
"""
# A traceback's last line, or C++'s word on an exception that nobody caught; what MindSpore
# appends to either (calls in C++) says less.
_ERROR = re.compile(r"[\w.]*(Error|Exception|Exit): |what\(\): ")


@dataclass(frozen=True, slots=True)
class Trial:
    """The steps that a program got through, by name, and why it got no further: empty if it did.

    ``unanswered``: it took too long, which says nothing of what is wrong.
    """

    steps: dict[str, dict[str, Any]]
    why: str
    unanswered: bool = False


def try_out(program: str, *arguments: str, limit: float) -> Trial:
    """Run a Python program that calls ``say(step=..., **facts)``, for ``limit`` seconds at most."""
    command = [sys.executable, "-P", "-c", _SAY + program, *arguments]
    # mindnlp would set a mirror of its own; nothing is downloaded here anyway.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    unanswered = False
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        out, code = done.stdout, done.returncode
        why = "" if code == 0 else last_words(done.stderr, code)
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode(errors="replace")
        why, unanswered = f"no answer within {limit:.0f} s", True
    found = [json.loads(line) for line in out.splitlines() if line.startswith('{"step"')]
    return Trial({fact["step"]: fact for fact in found}, why, unanswered)


def last_words(stderr: str, code: int) -> str:
    """Why a program ended, from what it wrote: its error, else the signal or its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return errors[-1].removeprefix("what():").strip()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return lines[-1] if lines else f"exit code {code}"
