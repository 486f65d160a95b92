"""The device that tests of kernels and models run on."""

import os

# The CPU, or "Ascend" where tests/ascend runs them on its stand-in for CANN.
DEVICE = os.environ.get("VIDCAP_TEST_DEVICE", "CPU")
