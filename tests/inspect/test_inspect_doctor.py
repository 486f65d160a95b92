"""The report on this machine: what it finds, and what it says when something is wrong."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from vidcap_cli.inspect import doctor, engines
from vidcap_cli.inspect.ascend import Ascend
from vidcap_cli.inspect.cann import Cann
from vidcap_cli.inspect.trial import Trial

PLAIN = Ascend([], [], "", "", None, [], Trial({}, ""))
WITH_A_DEVICE = Ascend(
    [Path("/dev/davinci0")],
    [0],
    "",
    "25.2.0",
    Cann(Path("/opt/ascend-toolkit/latest"), "8.2", "8.2.RC1", sourced=True),
    ["8.2"],
    Trial({"library": {"path": "/opt/ascend-toolkit/latest/lib64/libascendcl.so"}}, ""),
)
SAYS_MINDSPORE = 'say(step="mindspore", seconds=1.5)\n'
HANGS = "time.sleep(60)\n"  # and is given up on after the second that these tests wait
SAYS_DEVICE = 'say(step="device", right=True)\n'


def facts(report, section):
    return report.as_dict()["facts"][section]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain machine with engines that start at once: the real ones take ten seconds and more."""
    monkeypatch.setattr(doctor, "look_at_ascend", lambda: PLAIN)
    monkeypatch.setattr(engines, "_START", SAYS_MINDSPORE + SAYS_DEVICE)
    monkeypatch.setattr(engines, "_START_MINDNLP", 'say(step="mindnlp", seconds=4.0)\n')
    monkeypatch.setattr(engines, "has_mindnlp", lambda: True)


def judge(ascend: Ascend, limit: float = 30):
    """Facts and problems of the engines on a machine."""
    problems: list[engines.Problem] = []
    facts = {fact.label: fact for fact in engines.engine_facts(ascend, limit, problems)}
    return facts, problems


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
    monkeypatch.setattr(engines, "has_mindnlp", lambda: False)
    report = doctor.machine_report()
    assert report.ok, report.problems
    assert not any("mindnlp" in problem.text for problem in report.problems)
    assert facts(report, "engines")["engine_mindnlp"] == {"starts": False, "seconds": None}
    said = {fact.label: fact.words for section in report.sections for fact in section.facts}
    assert "pip install 'vidcap[mindnlp]'" in said["engine mindnlp"]
    assert said["mindnlp"] == "not installed, for --engine mindnlp only"


@pytest.mark.slow
def test_the_real_engine_starts():
    trial = engines.start("CPU", 180)
    assert trial.why == ""
    assert set(trial.steps) == {"mindspore", "device", "mindnlp"}
    assert trial.steps["device"]["right"] is True


def test_an_engine_that_crashes_names_the_step(started, monkeypatch):
    crash = 'raise OSError("libascendcl.so: no")\n'
    monkeypatch.setattr(engines, "_START", SAYS_MINDSPORE + crash)
    facts, problems = judge(PLAIN)
    (problem,) = problems
    assert problem.text == "MindSpore does not compute on CPU: OSError: libascendcl.so: no"
    assert problem.remedy == engines.REINSTALL
    assert problem.serious
    assert facts["computes on CPU"].value is False
    assert facts["engine mindnlp"].words == "not tried, it needs MindSpore"


def test_a_device_on_which_mindspore_fails_has_the_remedy_of_the_device(started, monkeypatch):
    monkeypatch.setattr(engines, "_START", SAYS_MINDSPORE + 'raise RuntimeError("error 507899")\n')
    _, problems = judge(WITH_A_DEVICE)
    (problem,) = problems
    assert problem.text.startswith("MindSpore does not compute on Ascend: ")
    assert "npu-smi info" in problem.remedy
    assert problem.serious


def test_a_mindnlp_that_fails_leaves_the_machine_ready(started, monkeypatch):
    monkeypatch.setattr(engines, "_START_MINDNLP", "import no_such_package")
    report = doctor.machine_report()
    assert report.ok
    assert report.verdict == "ready to caption on the CPU"
    (problem,) = [p for p in report.problems if "mindnlp" in p.text]
    assert "No module named 'no_such_package'" in problem.text
    assert problem.remedy == engines.INSTALL_MINDNLP
    assert not problem.serious


def test_a_mindnlp_without_acl_leaves_the_device_ready(started, monkeypatch):
    missing = "raise ModuleNotFoundError(\"No module named 'acl'\")"
    monkeypatch.setattr(engines, "_START_MINDNLP", missing)
    monkeypatch.setattr(doctor, "look_at_ascend", lambda: WITH_A_DEVICE)
    monkeypatch.setattr(doctor, "ascend_problems", lambda _: [])
    report = doctor.machine_report()
    assert report.ok
    assert report.verdict == "ready to caption on 1 Ascend device"
    (problem,) = report.problems
    assert problem.text.startswith("--engine mindnlp does not start: ModuleNotFoundError: ")
    assert problem.remedy.startswith("source /opt/ascend-toolkit/set_env.sh")


def test_an_engine_that_hangs_is_given_up_on(started, monkeypatch):
    monkeypatch.setattr(engines, "_START", SAYS_MINDSPORE + HANGS)
    trial = engines.start("CPU", 1.0)
    assert set(trial.steps) == {"mindspore"}
    assert trial.why == "no answer within 1 s"


@pytest.mark.parametrize(("steps", "engine"), [("", "MindSpore"), (SAYS_MINDSPORE, "mindnlp")])
def test_an_engine_that_takes_too_long_is_not_to_be_installed_again(
    started, monkeypatch, steps, engine
):
    monkeypatch.setattr(engines, "_START", steps + (SAYS_DEVICE if steps else "") + HANGS)
    _, (problem,) = judge(PLAIN, 1.0)
    assert engine in problem.text
    assert problem.remedy == engines.AGAIN


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


def test_inspect_never_imports_mindspore_here():
    program = (
        "import sys; from pathlib import Path\n"
        "import vidcap_cli.inspect, vidcap_cli.inspect.doctor, vidcap_cli.inspect.meta\n"
        "import vidcap_cli.inspect.model, vidcap_cli.inspect.run, vidcap_cli.inspect.video\n"
        "import vidcap_cli.inspect.captions, vidcap_cli.inspect.watch, vidcap_cli.inspect.videos\n"
        "vidcap_cli.inspect.engines.has_msrun()\n"
        "vidcap_cli.inspect.ascend.look_at_ascend()\n"
        "print(sorted({'mindspore', 'mindnlp', 'torch', 'pandas'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert out.stdout.decode().strip() == "[]"
