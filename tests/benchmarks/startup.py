"""How long vidcap takes to answer, against a hello-world Typer application.

One command, one table: ``python tests/benchmarks/startup.py``. Each pair is run in turns by the
same interpreter, so that a busy machine slows both; the figures are medians of user plus system
time and of wall time. The target is a ratio of at most 1.5.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

RUNS = int(os.environ.get("VIDCAP_BENCHMARK_RUNS", "25"))
HELLO = """
import typer

app = typer.Typer()


@app.command()
def hello(name: str) -> None:
    \"\"\"Say hello.\"\"\"
    print(f"Hello {name}")


if __name__ == "__main__":
    app(prog_name="hello")
"""
# What the console script does, under a name that needs no installation.
VIDCAP = """
import sys
from vidcap_cli.__main__ import main

if __name__ == "__main__":
    sys.argv[0] = "vidcap"
    sys.exit(main())
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of one start: on the clock, and of the processor."""

    wall: float
    cpu: float


def start(script: Path, arguments: list[str], tab: list[str] | None) -> Cost:
    """Run ``script`` once; with ``tab``, as bash does when TAB is pressed after these words."""
    environment = {**os.environ, "COLUMNS": "100"}
    # As for a user: compiling every module again would hide what the programs themselves cost.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(script.parent / "bytecode")
    if tab is not None:
        words = [script.stem, *tab]
        environment[f"_{script.stem.upper()}_COMPLETE"] = "complete_bash"
        environment["COMP_WORDS"] = "\n".join(words)
        environment["COMP_CWORD"] = str(len(words) - 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not done.stdout.strip():
        raise SystemExit(f"{script.stem} {arguments} {tab}: answered nothing")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu)


def main() -> None:
    cases: dict[str, tuple[list[str], list[str] | None, list[str], list[str] | None]] = {
        "vidcap --help": (["--help"], None, ["--help"], None),
        "vidcap qwen2vl --help": (["qwen2vl", "--help"], None, ["--help"], None),
        "vidcap q<TAB>": ([], ["q"], [], ["--he"]),
        "vidcap qwen2vl --fp<TAB>": ([], ["qwen2vl", "--fp"], [], ["--he"]),
    }
    print(f"medians of {RUNS} alternating runs, milliseconds")
    print(f"{'':26}{'cpu':>7}{'hello':>7}{'ratio':>7}   {'wall':>7}{'hello':>7}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        hello, vidcap = Path(folder, "hello.py"), Path(folder, "vidcap.py")
        hello.write_text(HELLO, encoding="utf-8")
        vidcap.write_text(VIDCAP, encoding="utf-8")
        for name, (arguments, tab, hello_arguments, hello_tab) in cases.items():
            ours: list[Cost] = []
            theirs: list[Cost] = []
            for turn in range(RUNS + 1):
                pair = start(vidcap, arguments, tab), start(hello, hello_arguments, hello_tab)
                if turn:  # the first pair fills the page cache and writes byte code
                    ours.append(pair[0])
                    theirs.append(pair[1])
            figures = []
            for measure in ("cpu", "wall"):
                mine = statistics.median(getattr(cost, measure) for cost in ours) * 1000
                other = statistics.median(getattr(cost, measure) for cost in theirs) * 1000
                figures.append(f"{mine:7.0f}{other:7.0f}{mine / other:7.2f}")
            print(f"{name:26}{'   '.join(figures)}")


if __name__ == "__main__":
    main()
