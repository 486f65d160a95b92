"""The report on this machine: what it finds, and what it says when something is wrong."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from vidcap_cli.inspect import doctor


def facts(report, section):
    return report.as_dict()["facts"][section]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that starts at once: the real one takes ten seconds and more."""
    steps = 'import json\nprint(json.dumps({"step": "mindspore", "seconds": 1.5}))\n'
    steps += 'print(json.dumps({"step": "device", "right": True}))\n'
    monkeypatch.setattr(doctor, "_START", steps)
    mindnlp = 'print(json.dumps({"step": "mindnlp", "seconds": 4.0}))\n'
    monkeypatch.setattr(doctor, "_START_MINDNLP", mindnlp)


def test_a_machine_that_is_ready(started):
    report = doctor.machine_report()
    assert report.ok, report.problems
    assert report.verdict.startswith("ready to caption on")
    packages = facts(report, "packages")
    assert packages["pyarrow"] == importlib.metadata.version("pyarrow")
    assert facts(report, "engines")["engine_graph"] == {"starts": True, "seconds": 1.5}
    assert facts(report, "engines")["engine_mindnlp"] == {"starts": True, "seconds": 4.0}
    assert facts(report, "engines")["msrun"] is True
    assert {"h264", "av1"} <= set(facts(report, "videos")["codecs"])
    assert facts(report, "videos")["bundled_clip"] is True
    assert facts(report, "machine")["cores"] >= 1


def test_a_machine_without_the_reference_engine_is_ready_too(started, monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in doctor.OPTIONAL:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "has_mindnlp", lambda: False)
    report = doctor.machine_report()
    assert report.ok, report.problems
    assert not any("mindnlp" in problem.text for problem in report.problems)
    assert facts(report, "engines")["engine_mindnlp"] == {"starts": False, "seconds": None}
    said = {fact.label: fact.words for section in report.sections for fact in section.facts}
    assert "pip install 'vidcap[mindnlp]'" in said["engine mindnlp"]
    assert said["mindnlp"] == "not installed, for --engine mindnlp only"


@pytest.mark.slow
def test_the_real_engine_starts():
    steps, why = doctor._start("CPU", 180)
    assert why == ""
    assert set(steps) == {"mindspore", "device", "mindnlp"}
    assert steps["device"]["right"] is True


def test_an_engine_that_crashes_names_the_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        doctor,
        "_START",
        'print(\'{"step": "mindspore", "seconds": 1.0}\')\nraise OSError("libascendcl.so: no")',
    )
    problems: list[doctor.Problem] = []
    doctor._engines("CPU", 30, problems)
    assert "does not get past device: OSError: libascendcl.so: no" in problems[0].text
    assert problems[0].serious


def test_an_engine_that_hangs_is_given_up_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        doctor,
        "_START",
        'print(\'{"step": "mindspore", "seconds": 1.0}\', flush=True)\nimport time\ntime.sleep(60)',
    )
    steps, why = doctor._start("CPU", 1.0)
    assert set(steps) == {"mindspore"}
    assert why == "no answer within 1 s"


def test_a_package_of_the_wrong_version(monkeypatch: pytest.MonkeyPatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "5.0.0" if name == "transformers" else real(name),
    )
    problems: list[doctor.Problem] = []
    doctor._packages(problems)
    assert "transformers 5.0.0 is installed, vidcap needs ==4.57.6" in problems[0].text
    assert problems[0].remedy == "pip install 'transformers==4.57.6'"


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    problems: list[doctor.Problem] = []
    doctor._packages(problems)
    assert problems[0].text == "the package mindspore is not installed"
    assert problems[0].serious


def test_devices_without_drivers_and_drivers_without_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    problems: list[doctor.Problem] = []
    doctor._devices([Path("/dev/davinci0")], [0], problems)
    assert "CANN" in problems[0].text
    monkeypatch.setattr("shutil.which", lambda _: "/usr/local/bin/npu-smi")
    problems = []
    doctor._devices([], [], problems)
    assert "no device is visible" in problems[0].text
    assert not problems[0].serious


def test_devices_that_the_environment_hides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ASCEND_HOME_PATH", "/usr/local/Ascend")
    problems: list[doctor.Problem] = []
    nodes = [Path("/dev/davinci0"), Path("/dev/davinci1")]
    facts = {fact.label: fact.value for fact in doctor._devices(nodes, [1], problems)}
    assert facts["visible to ranks"] == [1]
    assert "leaves 1 of 2 devices" in problems[0].text
    assert not problems[0].serious


def test_inspect_never_imports_mindspore_here():
    program = (
        "import sys; from pathlib import Path\n"
        "import vidcap_cli.inspect, vidcap_cli.inspect.doctor, vidcap_cli.inspect.meta\n"
        "import vidcap_cli.inspect.model, vidcap_cli.inspect.run, vidcap_cli.inspect.video\n"
        "vidcap_cli.inspect.doctor._has_msrun()\n"
        "print(sorted({'mindspore', 'mindnlp', 'torch', 'pandas'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert out.stdout.decode().strip() == "[]"
