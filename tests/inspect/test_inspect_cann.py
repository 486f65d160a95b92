"""Which CANN and driver are installed: read from files as installers leave them."""

import importlib.util
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from vidcap_cli.inspect import cann

VARIABLES = ("ASCEND_OPP_PATH", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of a CANN that the environment names, the only one on this machine."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "ascend-toolkit" / "latest"
    (folder / "opp").mkdir(parents=True)
    monkeypatch.setattr(cann, "_ROOTS", ())
    monkeypatch.setenv("ASCEND_OPP_PATH", str(folder / "opp"))
    return folder


def write(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def test_the_compilers_version_is_what_mindspore_compares(root):
    write(root / "compiler/version.info", "Version=8.2.0.0.201", "version_dir=8.2.RC1")
    write(root / "opp/version.info", "Version=8.5.0.2.220", "version_dir=8.5.0")
    found = cann.find_cann()
    assert found == cann.Cann(root, "8.2", "8.2.RC1", sourced=True)
    assert str(found) == "CANN 8.2.RC1"


def test_a_release_whose_number_is_another(root):
    write(root / "compiler/version.info", "Version=7.7.T20.0.B210", "version_dir=8.1.RC1")
    found = cann.find_cann()
    assert (found.number, found.release) == ("7.7", "8.1.RC1")


def test_operators_alone_tell_the_version(root):
    write(root / "opp/version.info", "Version=8.5.0.2.220", "version_dir=8.5.0", "timestamp=1")
    found = cann.find_cann()
    assert (found.number, found.release) == ("8.5", "8.5.0")


def test_the_list_of_packages_tells_the_version(root):
    write(
        root / "version.cfg",
        "# version: 1.0",
        "runtime_running_version=[8.2.0.2.220:8.2.RC2]",
        "compiler_running_version=[8.2.0.2.220:8.2.RC2]",
    )
    found = cann.find_cann()
    assert (found.number, found.release) == ("8.2", "8.2.RC2")


def test_the_toolkit_tells_a_release_and_no_number(root):
    info = root / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    write(info, "package_name=Ascend-cann-toolkit", "version=8.2.RC1")
    found = cann.find_cann()
    assert (found.number, found.release) == ("", "8.2.RC1")


def test_a_cann_without_files_has_no_version(root):
    found = cann.find_cann()
    assert (found.number, found.release) == ("", "")
    assert str(found) == "CANN of an unknown version"


def test_a_cann_that_is_not_sourced_is_found_where_installers_put_it(root, monkeypatch):
    monkeypatch.delenv("ASCEND_OPP_PATH")
    assert cann.find_cann() is None
    monkeypatch.setattr(cann, "_ROOTS", (root.parent / "none", root))
    write(root.parent / "set_env.sh")
    found = cann.find_cann()
    assert found.root == root
    assert not found.sourced
    assert found.set_env == root.parent / "set_env.sh"


def test_a_variable_that_names_no_folder_names_no_cann(root, monkeypatch):
    monkeypatch.setenv("ASCEND_OPP_PATH", str(root.parent / "gone" / "opp"))
    assert cann.find_cann() is None
    monkeypatch.setenv("ASCEND_HOME_PATH", str(root))
    assert cann.find_cann().root == root


def test_the_driver_where_its_installer_says(tmp_path, monkeypatch):
    monkeypatch.setattr(cann, "_DRIVER", tmp_path / "usual")
    monkeypatch.setattr(cann, "_DRIVER_PLACE", tmp_path / "ascend_install.info")
    assert cann.driver_version() == ""
    write(tmp_path / "usual/version.info", "Version=25.2.0", "ascendhal_version=7.35.23")
    assert cann.driver_version() == "25.2.0"
    write(tmp_path / "elsewhere/driver/version.info", "Version=25.0.rc1.1")
    place = f"Driver_Install_Path_Param={tmp_path / 'elsewhere'}"
    write(tmp_path / "ascend_install.info", "UserName=HwHiAiUser", place)
    assert cann.driver_version() == "25.0.rc1.1"


def test_what_the_installed_mindspore_takes():
    pytest.importorskip("mindspore")
    expected = cann.expected_cann()
    assert expected
    assert all(part.isdigit() for number in expected for part in number.split("."))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            'class AscendEnvChecker:\n    def __init__(self):\n        self.version = ["8.5"]',
            ["8.5"],
        ),
        ('class GPUEnvChecker:\n    def __init__(self):\n        self.version = ["11.6"]', []),
        ("class AscendEnvChecker:\n    def __init__(self):\n        self.version = read()", []),
        ("class AscendEnvChecker(", []),
        (None, []),
    ],
    ids=["a list", "of another device", "no list", "not Python", "no file"],
)
def test_the_check_of_another_mindspore(tmp_path, monkeypatch, source, expected):
    if source is not None:
        write(tmp_path / "run_check/_check_version.py", source)
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    assert cann.expected_cann() == expected


def test_without_mindspore_nothing_is_expected(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert cann.expected_cann() == []
