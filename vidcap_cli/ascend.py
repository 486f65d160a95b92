"""The Ascend devices of this machine, found without MindSpore.

Source: CANN 8.5, environment variable reference, ``ASCEND_RT_VISIBLE_DEVICES``. Not tried on a
device.
"""

import os
import re
from pathlib import Path

VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"


def device_nodes() -> list[Path]:
    """What the driver, or a container, has put into /dev."""
    return sorted(Path("/dev").glob("davinci[0-9]*"))


def visible_devices() -> list[int]:
    """The devices that processes may use, numbered from 0 as CANN does on every machine.

    Where the environment names some, CANN reads them up to the first character, or number, that is
    out of place: "1, 2" is 1.
    """
    there = range(len(device_nodes()))
    named = os.environ.get(VISIBLE, "").strip()
    if not named:
        return list(there)
    visible = []
    for text in named.split(","):
        digits = re.sub("[^0-9].*", "", text)
        if not digits or int(digits) not in there:
            break
        visible.append(int(digits))
        if digits != text:
            break
    return visible
