"""The hot path: the modules that run for every message, which mypyc compiles for wheels (hatch_build.py asks for it).

    python tools/hot.py                          mypyc takes them: it writes C, which is not compiled
    python tools/hot.py tests/unit/amqp …        compile a copy of the package, and run these tests against it

Nothing is compiled inside the tree: a checkout runs as plain Python. `tests/test_hot.py` holds the list against what
runs during calls. This file is in source distributions, and needs the standard library only.
"""

import importlib.machinery
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Below src/warren: what runs for every message of an `AsyncClient` or of a worker without middleware, and keeps to
#: what mypyc can compile.
HOT = (
    "amqp/acks",
    "amqp/confirms",
    "amqp/frames",
    "amqp/splitter",
    "protocol/codecs",
    "protocol/deadline",
    "protocol/signature",
    "protocol/reply",
    "protocol/request",
    "protocol/stage",
    "connection/channel",
    "connection/output",
    "connection/stream",
    "client/calls",
    "client/core",
    "client/lane",
    "client/lean",
    "client/replies",
    "client/requests",
    "client/target",
    "server/admission",
    "server/attempt",
    "server/cutoffs",
    "server/endings",
    "server/lean_stages",
    "server/places",
    "server/replies",
    "server/runners",
    "server/settler",
    "server/statistics",
    "server/threads",
    "server/worker",
)
#: Compiled with them, and not seen where Python is interpreted: there `struct` does their work.
HIDDEN = ("amqp/numbers",)
#: Runs for every message too, and stays interpreted, for this reason.
INTERPRETED = {
    "client/async_client": "what it asks of the running loop and task is asyncio's, and it is little",
    "client/awaited": "its future is a subclass of asyncio's, which is written in C: compiled, it crashes",
    "server/context": "its type variable is another one for type checkers, whose branch compiled code takes",
    "client/options": "it says what is wrong with what users give; compiled code refuses other types in its own words",
}

#: What compiling needs beside what Warren runs on, as requirements. Older mypyc was not tried.
COMPILERS = ("mypy>=2.4", "setuptools>=65")

# mypyc's runtime throws exceptions into what a coroutine awaits as type, value and traceback, which CPython 3.12 and
# later warn of; where warnings are errors, a cancellation got lost that way (mypyc/mypyc#1214). A mended copy is
# found before the original; once mypyc has mended it, the two are the same.
_BUILD = """
import sys
from pathlib import Path
from mypyc.build import include_dir, mypycify
extensions = mypycify(
    ["--config-file", sys.argv[1], *sys.argv[4:]], opt_level=sys.argv[3], debug_level="0", group_name="warren"
)
runtime = Path(include_dir(), "misc_ops.c").read_text()
runtime = runtime.replace(
    "PyObject_CallFunctionObjArgs(_m, type, value, traceback, NULL)", "PyObject_CallOneArg(_m, value)"
)
Path("mended").mkdir()
Path("mended", "misc_ops.c").write_text(runtime)
for extension in extensions:
    extension.include_dirs.insert(0, "mended")
if sys.argv[2] == "compile":
    from setuptools import setup
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    setup(name="warren-hot", packages=[], py_modules=[], ext_modules=extensions)
"""
#: Not strict: what a later mypy complains of must not decide whether a wheel is fast. `make types` is strict.
_CONFIG = "[mypy]\n[mypy-pika.*]\nignore_missing_imports = True\n"


def why_not() -> str | None:
    """What is missing here to compile; None if nothing seems to be."""
    if sys.implementation.name != "cpython":
        return f"mypyc compiles for CPython only, and this is {sys.implementation.name}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python is a free-threaded one, for which compiled modules were not tried"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"there is no C compiler ({compiler})"
    if not (header := Path(sysconfig.get_path("include"), "Python.h")).exists():
        return f"Python's headers are missing ({header})"
    return None


def build(folder: Path, goal: str, *, opt_level: str = "") -> subprocess.CompletedProcess[str]:
    """Give a copy of the package in `folder` to mypyc: to ``check`` it, or to ``compile`` it in place.

    Without a level for the C compiler, ``MYPYC_OPT_LEVEL`` says it, else 3: 0 takes two thirds of the time, for tests.
    """
    shutil.copytree(ROOT / "src" / "warren", folder / "warren", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mypy.ini").write_text(_CONFIG)
    level = opt_level or os.environ.get("MYPYC_OPT_LEVEL", "3")
    modules = [f"warren/{name}.py" for name in (*HOT, *HIDDEN)]
    command = [sys.executable, "-c", _BUILD, "mypy.ini", goal, level, *modules]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def compiled(folder: Path) -> dict[Path, str]:
    """What `build` compiled in `folder`, and where each file belongs, relative to the package's parent.

    That is a small file for each module, beside its source, and one that has the code of all.
    """
    files = [*folder.glob("*__mypyc.*"), *(folder / "warren").rglob("*")]
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return {path: path.relative_to(folder).as_posix() for path in files if path.name.endswith(endings)}


def main(tests: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="warren-hot-") as folder:
        built = build(Path(folder), "compile" if tests else "check")
        print(built.stdout, built.stderr, sep="", end="")
        if built.returncode or not tests:
            return built.returncode
        env = os.environ | {"PYTHONPATH": folder, "WARREN_COMPILED": folder}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/compiled.py", *tests]
        return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
