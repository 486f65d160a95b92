"""Python imports this at its start where the folder is on PYTHONPATH; see ``interference``."""

import os

if "VIDCAP_FAULTS" in os.environ:
    import interference

    interference.begin()
