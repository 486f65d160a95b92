"""The command of the campaign."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "nano")]

from faults import account, kills, scene


def main() -> int:
    """Run one part of the campaign; 1 when anything came out as it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("part", choices=["kills"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--model", choices=[scene.FAKE, scene.NANO], default=scene.FAKE)
    parser.add_argument("--place", type=Path, help="where runs that went wrong are kept")
    options = parser.parse_args()
    place = options.place or Path(tempfile.mkdtemp(prefix="vidcap-faults-"))
    print(f"seed {options.seed}, in {place}", flush=True)
    made = scene.make_scene(place, options.seed, options.rows, options.model)
    found = kills.campaign(made, place, options.seed, options.kills)
    print(account.summary(found))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
