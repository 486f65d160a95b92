"""Captions Qwen2.5-VL cases of ``engine_cases`` through mindnlp; prints the token ids as JSON.

``python reference_ids.py CASE...``. A program of its own: importing mindnlp changes what
``import torch`` means for good.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.engine.graph_ids import config_of, prompt_of
from tests.goldens.engine_cases import CASES
from tests.helpers.tiny import write_qwen2vl
from vidcap_cli.engine import generate_all, load_engine


def main() -> None:
    """The first prompt of each case."""
    done = {}
    for case in CASES["qwen2.5vl"]:
        if case.name not in sys.argv[1:]:
            continue
        with TemporaryDirectory() as place:
            folder = write_qwen2vl(Path(place), case.spec)
            config = replace(config_of(folder, case, case.asked[0], 1), engine="mindnlp")
            prompt = prompt_of(folder, case, case.asked[0])
            done[case.name] = asdict(generate_all(load_engine(config), [prompt])[0])
    print(json.dumps(done))


if __name__ == "__main__":
    main()
