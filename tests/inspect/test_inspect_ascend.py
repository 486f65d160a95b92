"""Ascend's part of the report on this machine: what is wrong, and the remedy for that."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vidcap_cli.inspect import ascend
from vidcap_cli.inspect.ascend import Ascend, ascend_facts, ascend_problems
from vidcap_cli.inspect.cann import Cann
from vidcap_cli.inspect.trial import Trial, last_words

ROOT = Path("/opt/ascend-toolkit/latest")
LIBRARY = f"{ROOT}/lib64/libascendcl.so"
SOURCE = "source /opt/ascend-toolkit/set_env.sh"
GB = 1024**3


@pytest.fixture(autouse=True)
def shared_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev that holds what all devices share."""
    for name in ("davinci_manager", "devmm_svm", "hisi_hdc"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ascend, "_DEV", tmp_path)
    return tmp_path


def device(free: int = 60, code: int = 0, words: str = "") -> dict[str, Any]:
    """What the trial tells of a device with 64 GB, ``free`` of them free, if it opens."""
    memory = {"free": 0, "total": 0} if code else {"free": free * GB, "total": 64 * GB}
    return {"code": code, "words": words, "kind": "Ascend910B3"} | memory


def machine(**changes: Any) -> Ascend:
    """A machine with two devices on which all is well, but for ``changes``."""
    steps = {"library": {"path": LIBRARY}, "device 0": device(60), "device 1": device(20)}
    found: dict[str, Any] = {
        "nodes": [Path("/dev/davinci0"), Path("/dev/davinci1")],
        "visible": [0, 1],
        "smi": "/usr/local/bin/npu-smi",
        "driver": "25.2.0",
        "cann": Cann(ROOT, "8.2", "8.2.RC1", sourced=True),
        "expected": ["7.7", "7.8", "8.2"],
        "trial": Trial(steps, ""),
    }
    return Ascend(**found | changes)


def does_not_load(words: str) -> Trial:
    return Trial({}, f"OSError: {words}: cannot open shared object file: No such file or directory")


def facts(found: Ascend) -> dict[str, Any]:
    return {
        fact.label: fact.words if fact.value is None else fact.value for fact in ascend_facts(found)
    }


def test_a_machine_on_which_all_is_well():
    assert ascend_problems(machine()) == []
    found = facts(machine())
    assert found["Ascend"] == ["davinci0", "davinci1"]
    assert found["driver"] == "25.2.0"
    assert found["CANN"] == str(ROOT)
    assert found["CANN version"] == {
        "number": "8.2",
        "release": "8.2.RC1",
        "expected": ["7.7", "7.8", "8.2"],
        "fits": True,
        "sourced": True,
    }
    assert found["libascendcl.so"] == {"path": LIBRARY, "error": ""}
    assert found["memory of 1"] == {"kind": "Ascend910B3", "total": 64 * GB, "free": 20 * GB}


def test_a_machine_without_ascend_says_so_in_four_facts():
    nothing = Ascend([], [], "", "", None, ["8.2"], Trial({}, ""))
    assert ascend_problems(nothing) == []
    assert facts(nothing) == {"Ascend": [], "visible to ranks": [], "npu-smi": "", "CANN": ""}
    assert nothing.mend_mindspore("no such device") is None


@pytest.mark.parametrize("cann", [Cann(ROOT, "8.2", "8.2.RC1", sourced=False), machine().cann])
def test_a_cann_that_is_not_sourced(cann):
    found = machine(cann=cann, trial=does_not_load("libascendcl.so"))
    (problem,) = ascend_problems(found)
    assert "libascendcl.so: cannot open shared object file" in problem.text
    assert problem.remedy == SOURCE
    assert problem.serious
    assert found.mend_mindspore("set_device failed") == SOURCE


@pytest.mark.parametrize("cann", [Cann(ROOT, "8.2", "8.2.RC1", sourced=False), None])
def test_a_library_that_the_loader_finds_without_set_env(cann):
    found = machine(cann=cann)
    (problem,) = ascend_problems(found)
    assert problem.remedy == (SOURCE if cann else f"source {ascend._CANN_HERE}")
    assert not problem.serious
    assert found.mend_mindspore("'NoneType' object has no attribute 'replace'") == problem.remedy


def test_no_cann_at_all():
    (problem,) = ascend_problems(machine(cann=None, trial=does_not_load("libascendcl.so")))
    assert problem.remedy.startswith("install CANN 8.2, toolkit and kernels")
    assert problem.serious


def test_a_driver_that_is_missing():
    (problem,) = ascend_problems(machine(driver="", trial=does_not_load("libascend_hal.so")))
    assert "libascend_hal.so" in problem.text
    assert "install the driver" in problem.remedy
    assert "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro" in problem.remedy
    assert problem.serious


def test_a_cann_that_does_not_fit():
    found = machine(cann=Cann(ROOT, "8.5", "8.5.0", sourced=True))
    (problem,) = ascend_problems(found)
    assert problem.text.startswith("CANN 8.5.0 does not fit MindSpore ")
    assert problem.remedy.startswith("install CANN 8.2,")
    assert not problem.serious
    assert facts(found)["CANN version"]["fits"] is False
    assert found.mend_mindspore("undefined symbol") == problem.remedy


@pytest.mark.parametrize(
    "changes", [{"cann": Cann(ROOT, "", "8.2.RC1", sourced=True)}, {"expected": []}]
)
def test_versions_that_nobody_tells_are_not_judged(changes):
    assert ascend_problems(machine(**changes)) == []
    assert facts(machine(**changes))["CANN version"]["fits"] is None


def test_a_driver_without_devices():
    found = machine(nodes=[], visible=[], trial=does_not_load("libascend_hal.so"))
    (problem,) = ascend_problems(found)
    assert "no device is visible" in problem.text
    assert "--device /dev/davinci0 --device /dev/davinci_manager" in problem.remedy
    assert not problem.serious
    assert "libascend_hal.so" in facts(found)["libascendcl.so"]["error"]


def test_a_container_without_what_devices_share(shared_nodes):
    (shared_nodes / "devmm_svm").unlink()
    (problem,) = ascend_problems(machine())
    assert "not /dev/devmm_svm" in problem.text
    assert problem.remedy.endswith("docker run --device /dev/devmm_svm ...")
    assert not problem.serious


def test_devices_that_the_environment_hides():
    steps = {"library": {"path": LIBRARY}, "device 0": device(7)}
    found = machine(visible=[1], trial=Trial(steps, ""))
    (problem,) = ascend_problems(found)
    assert "leaves 1 of 2 devices" in problem.text
    assert not problem.serious
    # CANN numbers what is visible from 0.
    assert facts(found)["memory of 1"]["free"] == 7 * GB
    assert "memory of 0" not in facts(found)


def test_a_device_that_does_not_open():
    steps = machine().trial.steps | {"device 1": device(code=507033, words="EE1001:\n  bad")}
    found = machine(trial=Trial(steps, ""))
    (problem,) = ascend_problems(found)
    assert problem.text == "device 1 does not open: error 507033 EE1001: bad"
    assert "ASCEND_RT_VISIBLE_DEVICES" in problem.remedy
    assert problem.serious
    assert "memory of 1" not in facts(found)


def test_a_device_that_does_not_answer():
    steps = {"library": {"path": LIBRARY}}
    (problem,) = ascend_problems(machine(trial=Trial(steps, "no answer within 60 s")))
    assert problem.text == "device 0 does not answer: no answer within 60 s"
    assert not problem.serious


def test_a_mindspore_that_finds_no_kernels():
    remedy = machine().mend_mindspore("Exception: Ascend opp_kernel is not installed")
    assert remedy.startswith("install the kernels of CANN 8.2.RC1")


def test_a_mindspore_that_looks_for_latest():
    steps = {"library": {"path": "/opt/cann-8.2/lib64/libascendcl.so"}}
    found = machine(trial=Trial(steps, ""))
    assert "called latest" in found.mend_mindspore("ValueError: Get ascend path failed, please")


def test_a_failure_that_nothing_explains():
    assert "npu-smi info" in machine().mend_mindspore("RuntimeError: Aclrt error 507899")


def test_mindnlp_without_the_python_package_of_cann():
    assert machine().mend_mindnlp("ModuleNotFoundError: No module named 'acl'").startswith(SOURCE)
    assert machine().mend_mindnlp("ImportError: cannot import name 'x' from 'peft'") is None


ACL = """
#include <stddef.h>
int aclInit(const char *settings) { return 0; }
const char *aclrtGetSocName(void) { return "Ascend910B3"; }
const char *aclGetRecentErrMsg(void) { return "no such device"; }
static int chosen;
int aclrtSetDevice(int device) { chosen = device; return device > 1 ? 107001 : 0; }
int aclrtResetDevice(int device) { return 0; }
int aclrtGetMemInfo(int kind, size_t *free, size_t *total) {
  *free = kind == 1 ? 1000 + chosen : 0;
  *total = 2000;
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_trial_asks_each_device(tmp_path, monkeypatch):
    (tmp_path / "acl.c").write_text(ACL)
    library = tmp_path / "libascendcl.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "acl.c"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path), prepend=":")
    trial = ascend.try_out(ascend._PROGRAM, "3", limit=60)
    assert trial.why == ""
    assert trial.steps["library"]["path"] == str(library)
    assert [trial.steps[f"device {number}"]["free"] for number in range(3)] == [1000, 1001, 0]
    assert trial.steps["device 1"]["kind"] == "Ascend910B3"
    assert trial.steps["device 2"]["code"] == 107001
    assert trial.steps["device 2"]["words"] == "no such device"


def test_the_trial_tells_the_loaders_own_words(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "libascendcl.so").write_text("not a library")
    trial = ascend.try_out(ascend._PROGRAM, "1", limit=60)
    assert trial.steps == {}
    assert "libascendcl.so" in trial.why


def test_the_error_counts_and_not_what_mindspore_appends():
    said = "Traceback:\n  File\nRuntimeError: Device init failed\n\n- C++ Call Stack\nx.cc:13 Init"
    assert last_words(said, 1) == "RuntimeError: Device init failed"
    said = "terminate called\n  what():  Get ascend path failed, please check\nand source"
    assert last_words(said, -6) == "Get ascend path failed, please check"
    assert last_words("[WARNING] odd\n", -11) == "killed by SIGSEGV"
    assert last_words("command not found\n", 127) == "command not found"
    assert last_words("", 3) == "exit code 3"
