"""The command of the campaign."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import account, damage, kills, mutants, scene

PARTS = ("kills", "nodes", "bits", "vanish", "media", "tables")


def main() -> int:
    """Run one part of the campaign; 1 when anything came out as it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", "--count", type=int, default=500, dest="count")
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--model", choices=[scene.FAKE, scene.NANO], default=scene.FAKE)
    parser.add_argument("--place", type=Path, help="where runs that went wrong are kept")
    options = parser.parse_args()
    # Behind an `&` of a script it is ignored, and would be by every command that is started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place = options.place or Path(tempfile.mkdtemp(prefix="vidcap-faults-"))
    seed, count = options.seed, options.count
    print(f"seed {seed}, in {place}", flush=True)
    if options.part == "tables":
        place.mkdir(parents=True, exist_ok=True)
        return _told(mutants.tables(place, seed, count))
    made = scene.make_scene(place, seed, options.rows, options.model)
    if options.part in ("kills", "nodes"):
        found = kills.campaign(made, place, seed, count, nodes=options.part == "nodes")
        print(account.summary(found))
        return 1 if found.wrong else 0
    parts = {"bits": damage.bits, "vanish": damage.vanish, "media": mutants.media}
    return _told(parts[options.part](made, place, seed, count))


def _told(found: damage.Damages) -> int:
    print(found)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
