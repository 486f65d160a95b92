"""Which versions of Ascend's software are installed, read from the files that installers leave.

Nothing is loaded or imported. Sources: for CANN and what MindSpore expects of it, the check that
MindSpore makes itself (``run_check/_check_version.py`` of the installed package); for the driver,
MindSpore's ``ascend_vmm_adapter.h``. Not tried on a device.
"""

import ast
import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Where CANN is installed unless its installer was told otherwise: before 8.5, and since.
_ROOTS = (
    Path("/usr/local/Ascend/ascend-toolkit/latest"),
    Path("/usr/local/Ascend/cann"),
    Path.home() / "Ascend/ascend-toolkit/latest",
    Path.home() / "Ascend/cann",
)
# In the order in which they are asked. MindSpore asks the compiler's alone.
_VERSIONS = ("compiler/version.info", "opp/version.info", "toolkit/version.info")
_DRIVER = Path("/usr/local/Ascend/driver")
_DRIVER_PLACE = Path("/etc/ascend_install.info")


@dataclass(frozen=True, slots=True)
class Cann:
    """An installed CANN.

    ``number`` is what MindSpore compares, such as 8.2, and ``release`` its name, such as 8.2.RC1:
    empty where no file says. ``sourced``: the environment names it.
    """

    root: Path
    number: str
    release: str
    sourced: bool

    def __str__(self) -> str:
        return f"CANN {self.release or self.number or 'of an unknown version'}"

    @property
    def set_env(self) -> Path:
        """The script that tells a shell of this CANN."""
        places = (self.root.parent / "set_env.sh", self.root / "set_env.sh")
        return next((place for place in places if place.is_file()), places[0])


def find_cann() -> Cann | None:
    """The CANN that the environment names, else one where installers put it."""
    named = list(_named())
    there = next((root for root in (*named, *_ROOTS) if root.is_dir()), None)
    if there is None:
        return None
    number, release = _version(there)
    return Cann(there, number, release, sourced=there in named)


def _named() -> Iterator[Path]:
    """The folders that CANN's variables name; first the one that MindSpore goes by."""
    if opp := os.environ.get("ASCEND_OPP_PATH"):
        yield Path(opp).parent
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        if root := os.environ.get(name):
            yield Path(root)


def _version(root: Path) -> tuple[str, str]:
    """Number and release of the CANN in ``root``: 8.2.0.0.201 of 8.2.RC1 is 8.2 and 8.2.RC1."""
    number, release = "", ""
    for name in _VERSIONS:
        said = _settings(root / name)
        number = number or said.get("Version", "")
        release = release or said.get("version_dir", "")
    packages = re.search(
        r"compiler_running_version=\[([^:\]]+):([^\]]+)\]", _text(root / "version.cfg")
    )
    if packages:
        number, release = number or packages[1], release or packages[2]
    toolkit = root / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    release = release or _settings(toolkit).get("version", "")
    return ".".join(number.split(".")[:2]), release


def driver_version() -> str:
    """The version of the driver; empty where its file is not there."""
    place = _settings(_DRIVER_PLACE).get("Driver_Install_Path_Param")
    driver = Path(place) / "driver" if place else _DRIVER
    return _settings(driver / "version.info").get("Version", "")


def expected_cann() -> list[str]:
    """The numbers of CANN that the installed MindSpore takes; empty where it does not say."""
    package = importlib.util.find_spec("mindspore")
    if package is None or package.origin is None:
        return []
    check = _text(Path(package.origin).parent / "run_check" / "_check_version.py")
    try:
        classes = [node for node in ast.parse(check).body if isinstance(node, ast.ClassDef)]
    except SyntaxError:
        return []
    for found in classes:
        if found.name == "AscendEnvChecker":
            return next(_lists(found, "version"), [])
    return []


def _lists(checker: ast.ClassDef, attribute: str) -> Iterator[list[str]]:
    """The lists of texts that a class assigns to ``self.<attribute>``."""
    for node in ast.walk(checker):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and target.attr == attribute:
            texts = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            yield [text for text in texts if isinstance(text, str)]


def _settings(file: Path) -> dict[str, str]:
    """The lines ``name=value`` of a file; none where it is not there."""
    pairs = (line.partition("=") for line in _text(file).splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
