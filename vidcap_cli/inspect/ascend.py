"""Ascend on this machine: devices, driver, CANN, whether they work together, and what mends it.

CANN's library is loaded, and each device asked for its memory, in a process of its own with a time
limit. Sources: CANN's API reference (aclrtGetMemInfo and the functions around it), glibc's dladdr.
Not tried on a device.
"""

import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path

from vidcap_cli.ascend import VISIBLE, device_nodes, visible_devices
from vidcap_cli.inspect.cann import Cann, driver_version, expected_cann, find_cann
from vidcap_cli.inspect.report import Fact, Problem
from vidcap_cli.inspect.trial import Trial, try_out
from vidcap_cli.view.words import size

_LIMIT = 60.0  # seconds for the library and all devices
# What a process needs beside the nodes of the devices themselves.
_DEV = Path("/dev")
_SHARED_NODES = ("davinci_manager", "devmm_svm", "hisi_hdc")
_DRIVER_LIBRARIES = ("libascend_hal", "libdrv")
_MOUNT_DRIVER = "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro"
_PASS_SHARED = " ".join(f"--device /dev/{node}" for node in _SHARED_NODES)
_CANN_HERE = "/usr/local/Ascend/ascend-toolkit/set_env.sh"

# ACL_HBM_MEM is 1; a device is chosen for the process before its memory is asked for.
_PROGRAM = """
import ctypes
acl = ctypes.CDLL("libascendcl.so")
class Place(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p),
                ("name", ctypes.c_char_p), ("address", ctypes.c_void_p)]
place = Place()
ctypes.CDLL(None).dladdr(ctypes.cast(acl.aclInit, ctypes.c_void_p), ctypes.byref(place))
say(step="library", path=place.file.decode())
acl.aclInit(None)
acl.aclrtGetSocName.restype = ctypes.c_char_p
acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
for device in range(int(sys.argv[1])):
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    code = acl.aclrtSetDevice(device)
    if not code:
        acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total))
    words = (acl.aclGetRecentErrMsg() or b"").decode(errors="replace") if code else ""
    kind = "" if code else (acl.aclrtGetSocName() or b"").decode()
    say(step=f"device {device}", code=code, words=words, kind=kind,
        free=free.value, total=total.value)
    acl.aclrtResetDevice(device)
"""


@dataclass(frozen=True, slots=True)
class Ascend:
    """What was found. ``trial`` is of CANN's library, its steps empty where it was not tried."""

    nodes: list[Path]
    visible: list[int]
    smi: str
    driver: str
    cann: Cann | None
    expected: list[str]
    trial: Trial

    @property
    def library(self) -> str:
        """The file of CANN's library, empty when it does not load."""
        return str(self.trial.steps.get("library", {}).get("path", ""))

    @property
    def fits(self) -> bool | None:
        """Whether MindSpore takes this CANN; None where one of them does not say."""
        if self.cann is None or not self.cann.number or not self.expected:
            return None
        return self.cann.number in self.expected

    @property
    def sourced(self) -> bool:
        """Whether the environment names a CANN that is there."""
        return self.cann is not None and self.cann.sourced

    @property
    def there(self) -> bool:
        """Whether this machine has anything of Ascend's."""
        return bool(self.nodes or self.smi or self.driver or self.cann)

    def mend_mindspore(self, why: str) -> str | None:
        """What mends MindSpore when it fails on a device for the reason ``why``."""
        if not self.visible:
            return None
        if not self.library:
            return self.mend_library()
        if not self.sourced:
            return self.source()
        return self._mend_by_words(why)

    def _mend_by_words(self, why: str) -> str:
        """What mends MindSpore where CANN's library loads and the environment names it."""
        if "opp_kernel" in why:
            return (
                f"install the kernels of {self.cann or 'CANN'} for this device, beside its toolkit"
            )
        if "ascend path" in why and "latest" not in self.library:
            return f"{self.source()}: MindSpore looks for CANN in a folder called latest"
        if self.fits is False:
            return self.install()
        return "npu-smi info shows whether the device answers; CANN's own log is in ~/ascend/log"

    def mend_mindnlp(self, why: str) -> str | None:
        """What mends mindnlp where it lacks something of CANN's."""
        if "No module named 'acl'" not in why:
            return None
        return f"{self.source()}: it puts CANN's Python package acl on PYTHONPATH"

    def mend_library(self) -> str:
        """What makes CANN's library load, by the loader's own words."""
        missing = self.trial.why
        if any(name in missing for name in _DRIVER_LIBRARIES):
            return (
                "install the driver, or add its lib64/driver to LD_LIBRARY_PATH; in a container "
                f"pass it in: docker run {_MOUNT_DRIVER} ..."
            )
        if self.cann is None:
            return self.install()
        return self.source()

    def source(self) -> str:
        """To let the shell know CANN."""
        return f"source {self.cann.set_env if self.cann else _CANN_HERE}"

    def install(self) -> str:
        """To install the CANN that MindSpore is made for, the newest that it takes."""
        which = f"CANN {self.expected[-1]}" if self.expected else "CANN"
        return f"install {which}, toolkit and kernels, then source its set_env.sh"


def look_at_ascend() -> Ascend:
    """What this machine has of Ascend's; its library is tried where there is a CANN or a device."""
    nodes, visible, cann = device_nodes(), visible_devices(), find_cann()
    trial = Trial({}, "")
    if nodes or cann:
        trial = try_out(_PROGRAM, str(len(visible)), limit=_LIMIT)
    smi = shutil.which("npu-smi") or ""
    return Ascend(nodes, visible, smi, driver_version(), cann, expected_cann(), trial)


def ascend_facts(found: Ascend) -> tuple[Fact, ...]:
    """The section on devices: on a machine without Ascend's things, that there are none."""
    nodes = [node.name for node in found.nodes]
    root = str(found.cann.root) if found.cann else ""
    facts = [
        Fact("Ascend", ", ".join(nodes) or "none found, the CPU stands in", nodes),
        Fact("visible to ranks", ", ".join(map(str, found.visible)) or "none", list(found.visible)),
        Fact("npu-smi", found.smi or "not found", found.smi),
        Fact("CANN", root or "not found", root),
    ]
    if not found.there:
        return tuple(facts)
    facts.append(Fact("driver", found.driver or "no version.info found", found.driver))
    if found.cann:
        facts.append(_version_fact(found, found.cann))
    if found.trial.steps or found.trial.why:
        words = found.library or f"does not load: {found.trial.why}"
        value = {"path": found.library, "error": "" if found.library else found.trial.why}
        facts.append(Fact("libascendcl.so", words, value))
    return (*facts, *_memory_facts(found))


def _version_fact(found: Ascend, cann: Cann) -> Fact:
    judged = {True: ", which fits", False: ", which does not fit", None: ""}[found.fits]
    words = f"{cann.number or 'unknown'} ({cann.release or 'no release named'}){judged}"
    if found.expected:
        words += f"; MindSpore {_mindspore()} takes {', '.join(found.expected)}"
    value = {
        "number": cann.number,
        "release": cann.release,
        "expected": found.expected,
        "fits": found.fits,
        "sourced": cann.sourced,
    }
    return Fact("CANN version", words, value)


def _memory_facts(found: Ascend) -> list[Fact]:
    """Memory of each visible device that could be asked."""
    facts = []
    for number, device in enumerate(found.visible):
        told = found.trial.steps.get(f"device {number}")
        if told and told["total"]:
            words = f"{told['kind']}, {size(told['total'])}, {size(told['free'])} free"
            value = {key: told[key] for key in ("kind", "total", "free")}
            facts.append(Fact(f"memory of {device}", words, value))
    return facts


def ascend_problems(found: Ascend) -> list[Problem]:
    """What is wrong with the devices and with what they need, the causes first."""
    problems = _of_devices(found)
    if found.nodes and not found.library:
        text = f"CANN's library does not load: {found.trial.why}"
        problems.append(Problem(text, found.mend_library(), serious=bool(found.visible)))
    elif found.nodes and not found.sourced:
        text = "the environment does not say where CANN is (ASCEND_OPP_PATH)"
        problems.append(Problem(text, found.source(), serious=False))
    if found.fits is False:
        text = f"{found.cann} does not fit MindSpore {_mindspore()}"
        problems.append(Problem(text, found.install(), serious=False))
    if found.library:
        problems += _of_memory(found)
    return problems


def _of_devices(found: Ascend) -> list[Problem]:
    """Devices that cannot be seen, or not wholly."""
    problems = []
    if (found.smi or found.driver) and not found.nodes:
        text = "there is a driver, but no device is visible (/dev/davinci0)"
        remedy = f"in a container, pass them in: docker run --device /dev/davinci0 {_PASS_SHARED} "
        problems.append(Problem(text, remedy + _MOUNT_DRIVER + " ...", serious=False))
    lacking = [f"/dev/{node}" for node in _SHARED_NODES if not (_DEV / node).exists()]
    if found.nodes and lacking:
        flags = " ".join(f"--device {node}" for node in lacking)
        text = f"there are devices, but not {', '.join(lacking)}"
        remedy = f"in a container, pass them in: docker run {flags} ..."
        problems.append(Problem(text, remedy, serious=False))
    if len(found.visible) < len(found.nodes):
        text = f"{VISIBLE} leaves {len(found.visible)} of {len(found.nodes)} devices to vidcap"
        problems.append(Problem(text, f"unset {VISIBLE} to use all", serious=False))
    return problems


def _of_memory(found: Ascend) -> list[Problem]:
    """Devices that do not open: the ranks on them would fail."""
    problems = []
    for number, device in enumerate(found.visible):
        told = found.trial.steps.get(f"device {number}")
        if told and told["code"]:
            words = " ".join(told["words"].split())
            text = f"device {device} does not open: error {told['code']} {words}".rstrip()
            remedy = f"npu-smi info shows its state; {VISIBLE} leaves it out"
            problems.append(Problem(text, remedy))
        elif not told:
            # The engine has the last word: this way of asking was not tried on a device.
            text = f"device {device} does not answer: {found.trial.why}"
            problems.append(Problem(text, "npu-smi info shows its state", serious=False))
            break
    return problems


def _mindspore() -> str:
    try:
        return importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:
        return "(missing)"
