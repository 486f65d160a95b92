"""msrun without the rest of MindSpore, which takes a second or more to import.

msrun reads options and starts processes. Its package imports all of MindSpore, of which it needs
the log alone: the other names are for binding ranks to cores, which is not asked of it here. So
its own modules are imported beneath empty packages, and whatever else it would import is refused.
Where that does not do, as with a MindSpore whose msrun needs more, this process becomes msrun as
MindSpore has it.

Run as ``python -m vidcap_cli.processes vidcap_cli.launch.bare_msrun``, followed by msrun's words.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vidcap_cli.imports import refuse

MSRUN = "mindspore.parallel.cluster.run"
_PACKAGES = ("mindspore", "mindspore.parallel", "mindspore.runtime")
_ITS_OWN = ("mindspore.log", "mindspore.parallel.cluster", "mindspore.runtime.thread_bind_core")
# What binds ranks to cores, and is imported for it.
_UNUSED = {"mindspore.context": (), "mindspore.communication": ("get_local_rank_size",)}


def load() -> ModuleType:
    """The module of msrun, beneath empty packages. ImportError where it needs more than they hold.

    MindSpore itself cannot be imported in this process any more.
    """
    found = find_spec("mindspore")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("mindspore is not installed")
    root = Path(found.submodule_search_locations[0])
    for name in (*_PACKAGES, *_UNUSED):
        module = ModuleType(name)
        if name in _PACKAGES:
            module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        for attribute in _UNUSED.get(name, ()):
            setattr(module, attribute, None)
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    refuse(lambda name: name.startswith("mindspore.") and not name.startswith(_ITS_OWN))
    return import_module(MSRUN)


if __name__ == "__main__":
    try:
        msrun = load()
    except ImportError:
        os.execv(sys.executable, [sys.executable, "-m", MSRUN, *sys.argv[1:]])  # noqa: S606
    msrun.main()
