"""Builds a stand-in for CANN: shared libraries that MindSpore's own Ascend plugin loads.

MindSpore's wheel (2.7.0, x86-64) holds its whole Ascend backend, which needs CANN only at run time.
``cann`` computes what vidcap uses on host memory; everything else that the plugin asks for is
a stub that returns 0. So MindSpore's frontend, graph compiler, choice of kernels, launches, memory
pool and error texts are the real ones. HCCL is a sum in shared memory. What CANN's kernels check,
how precise and how fast they are, HCCL's ways between devices, and streams that overlap are not
here.

Needs gcc, g++ and binutils. The folder of the libraries is called ``latest``: MindSpore looks for
CANN by that word.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path(__file__).parent / "cann"
NAME = "libstandin.so"

# The libraries of MindSpore that use CANN, below its folder lib.
_USERS = (
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/ascend/libmindspore_ascend_res_manager.so",
    "plugin/ascend/libmindspore_graph_ir.so",
    "plugin/ascend/libd_collective.so",
    "plugin/ascend/libhccl_plugin.so",
    "plugin/ascend/libmindspore_internal_kernels.so",
)
# Those that look functions up by name.
_LOOKING = (
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/libmindspore_ops_host.so",
    "plugin/ascend/libmindspore_*.so",
    "libmindspore_pyboost.so",
    "libmindspore_extension.so",
)
_LOOKED_UP = re.compile(
    r"acl(nn|rt|op|mdl|prof|tdt)?\w{2,}|rt[A-Z][A-Za-z0-9]+|Hc(cl|om)[A-Z]\w+"
    r"|(Un)?InitHugeMemThreadLocal|ReleaseHugeMem|(Un)?InitPTACacheThreadLocal"
    r"|PTAGetExecCache|SetPTAHashKey|CanUsePTACache|AddTensorAddrToCachedList"
)
# Libraries that are opened by name while MindSpore starts.
_OPENED = (
    *("acl_op_compiler", "acl_tdt_channel", "acl_tdt_queue", "atb", "cust_opapi", "nnopbase"),
    *("opapi", "opapi_math", "opapi_nn"),
)
_SYSTEM = ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2")
_DATA = ("_ZTI", "_ZTV", "_ZTS")  # type information and virtual tables, not functions

# Saves what a call brings as ``Call`` of aclnn.c, and hands it on with the name of the function.
_SAVE = """
{label}: push %rbp
 mov %rsp, %rbp
 push %r9
 push %r8
 push %rcx
 push %rdx
 push %rsi
 push %rdi
 sub $64, %rsp
{reals}
 mov %rax, %rdi
 mov %rsp, %rsi
 call {target}@PLT
 leave
 ret
"""
_REALS = "\n".join(f" movsd %xmm{n}, {8 * n}(%rsp)" for n in range(8))


def build(target: Path) -> Path:
    """Build the libraries into ``target``/latest/lib64; gives that folder. Takes some 10 s.

    Beside it goes what CANN has for Python and MindSpore asks for: ``hccl``, with its version.
    """
    package = importlib.util.find_spec("mindspore")
    assert package is not None
    assert package.origin is not None
    lib = Path(package.origin).parent / "lib"
    folder = target / "latest" / "lib64"
    for place in (folder, target / "latest" / "opp", target / "latest" / "opp_kernel"):
        place.mkdir(parents=True, exist_ok=True)
    python = target / "latest" / "python" / "site-packages" / "hccl"
    python.mkdir(parents=True, exist_ok=True)
    (python / "__init__.py").touch()
    (python / "sys_version.py").write_text('__sys_version__ = "8.2"\n', encoding="ascii")
    objects = [_compile(source, target) for source in sorted(SOURCES.glob("*.c*"))]
    users = [lib / name for name in _USERS]
    given = [*lib.glob("*.so*"), *lib.rglob("plugin/**/*.so*"), *lib.parent.glob("_c_expression*")]
    given += [path for name in _SYSTEM if (path := _system(name))]
    stubs = (_undefined(users) - _defined(given)) | _looked_up(lib)
    assembly = target / "stubs.s"
    assembly.write_text(_assembly(stubs - _defined(objects)), encoding="ascii")
    made = ["-o", folder / NAME, f"-Wl,-soname,{NAME}", "-lstdc++", "-lm"]
    _gcc("-shared", "-fPIC", *objects, assembly, *made)
    provided = {path.name for path in given}
    for name in sorted(_needed(users) - provided | {f"lib{name}.so" for name in _OPENED}):
        if _system(name) is None:
            _gcc(
                *("-shared", "-fPIC", "-o", folder / name, f"-Wl,-soname,{name}"),
                *("-Wl,--no-as-needed", f"-L{folder}", "-lstandin", "-Wl,-rpath,$ORIGIN"),
            )
    return folder


def _compile(source: Path, target: Path) -> Path:
    out = target / f"{source.stem}.o"
    _gcc("-O2", "-march=native", "-Wall", "-fPIC", "-c", source, "-o", out)
    return out


def _gcc(*arguments: object) -> None:
    subprocess.run(["gcc", *map(str, arguments)], check=True)


def _lines(*command: object) -> list[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _system(name: str) -> Path | None:
    """A library of the system, where gcc finds it."""
    found = Path(_lines("gcc", f"-print-file-name={name}")[0])
    return found if found.is_absolute() else None


def _symbols(libraries: Iterable[Path], *options: str) -> set[str]:
    found = set()
    for library in libraries:
        for line in _lines("nm", *options, library):
            *_, kind, name = line.split()
            if kind not in "wv":  # weak ones need not be there
                found.add(name.split("@")[0])
    return found


def _undefined(libraries: Iterable[Path]) -> set[str]:
    names = _symbols(libraries, "-D", "--undefined-only")
    return {name for name in names if not name.lstrip("_").startswith("Py")}


def _defined(files: Iterable[Path]) -> set[str]:
    objects = {path for path in files if path.suffix == ".o"}
    libraries = set(files) - objects
    found = set()
    for library in libraries:
        for line in _lines("nm", "-D", "--defined-only", library):
            found.add(line.split()[-1].split("@")[0])
    return found | _symbols(objects, "-g", "--defined-only")


def _looked_up(lib: Path) -> set[str]:
    """Names of CANN's functions that MindSpore asks the loader for at run time."""
    names = set()
    for pattern in _LOOKING:
        for library in lib.glob(pattern):
            names |= {text for text in _lines("strings", library) if _LOOKED_UP.fullmatch(text)}
    for name in [name for name in names if name.startswith("aclnn")]:
        kernel = name.removesuffix("GetWorkspaceSize")
        names |= {kernel, f"{kernel}GetWorkspaceSize"}
    return names


def _needed(libraries: Iterable[Path]) -> set[str]:
    pattern = re.compile(r"\(NEEDED\).*\[(.*)\]")
    lines = [line for library in libraries for line in _lines("readelf", "-d", library)]
    return {found[1] for line in lines if (found := pattern.search(line))}


def _assembly(names: Iterable[str]) -> str:
    """Stubs: kernels go to aclnn.c with their arguments, all else returns 0."""
    parts = [
        ".text",
        _SAVE.format(label="prepare", reals=_REALS, target="stand_in_prepare"),
        _SAVE.format(label="launch", reals=_REALS, target="stand_in_launch"),
    ]
    for number, name in enumerate(sorted(names)):
        if name.startswith(_DATA):
            parts.append(f".data\n.globl {name}\n{name}: .zero 256\n.text")
        elif name.startswith("aclnn") and name not in {"aclnnInit", "aclnnFinalize"}:
            kind = "prepare" if name.endswith("GetWorkspaceSize") else "launch"
            parts.append(
                f".globl {name}\n.type {name}, @function\n"
                f"{name}: lea name{number}(%rip), %rax\n jmp {kind}\n"
                f'.section .rodata\nname{number}: .asciz "{name}"\n.text'
            )
        else:
            parts.append(f".globl {name}\n.type {name}, @function\n{name}: xor %eax, %eax\n ret")
    return "\n".join([*parts, '.section .note.GNU-stack,"",@progbits', ""])


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
