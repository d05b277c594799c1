"""The hot path: the modules that run for every message, and whether mypyc can compile them.

    python tools/hot.py                          mypyc takes them: it writes C, which is not compiled
    python tools/hot.py tests/unit/amqp …        compile a copy of the package, and run these tests against it

What is compiled stays outside the tree and is thrown away: the package ships as plain Python. `tests/test_hot.py`
holds the list against what runs during calls.
"""

import os
import shutil
import subprocess
import sys
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
    "connection/channel",
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

_BUILD = """
import sys
from mypyc.build import mypycify
extensions = mypycify(["--config-file", sys.argv[1], *sys.argv[4:]], opt_level=sys.argv[3], debug_level="0")
if sys.argv[2] == "compile":
    from setuptools import setup
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    setup(name="warren-hot", ext_modules=extensions)
"""


def build(folder: Path, goal: str, *, opt_level: str = "1") -> subprocess.CompletedProcess[str]:
    """Give a copy of the package in `folder` to mypyc: to ``check`` it, or to ``compile`` it in place.

    Level 1 compiles soonest, for tests; what is to be fast has 3.
    """
    shutil.copytree(ROOT / "src" / "warren", folder / "warren", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\n[mypy-pika.*]\nignore_missing_imports = True\n")
    modules = [f"warren/{name}.py" for name in (*HOT, *HIDDEN)]
    command = [sys.executable, "-c", _BUILD, "mypy.ini", goal, opt_level, *modules]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


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
