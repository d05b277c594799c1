"""Which Warren a peer runs: the tree as it is, the tree compiled, or an old commit; told by its PYTHONPATH.

What is built is kept in build/bench, and built again when the sources have changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from benchmarks.procs import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # hot.py is not installed

import hot

#: The commit that later ones are held against: the last before messages became lean and modules compiled.
LANDED = "a562ca6"
#: What a subject can ask for. ``shipped`` is compiled where a compiler is there, as the package is.
NAMES = ("shipped", "pure", "compiled", "landed")

_FOLDER = ROOT / "build" / "bench"


class CannotBuild(RuntimeError):
    """There is no compiler, or no such commit; the text says which."""


class Builds:
    """The builds of a run, each made when it is first asked for.

    Attributes:
        missing: those that cannot be had, and why.
    """

    def __init__(self, *, compiling: bool = True) -> None:
        """Without `compiling`, ``shipped`` is what was compiled before, or else pure."""
        self.missing: dict[str, str] = {}
        self._compiling = compiling
        self._paths: dict[str, Path | None] = {"pure": None}

    def prepare(self, names: Iterable[str]) -> None:
        """Make them; what cannot be made is in `missing` afterwards."""
        for name in dict.fromkeys(names):
            if name and name not in self._paths and name not in self.missing:
                self._make(name)

    def _make(self, name: str) -> None:
        if name == "shipped":
            self.prepare(["compiled"])
            self._paths[name] = self._paths.get("compiled")
            return
        try:
            self._paths[name] = landed() if name == "landed" else compiled(build=self._compiling)
        except CannotBuild as error:
            self.missing[name] = str(error)

    @property
    def shipped(self) -> str:
        """What ``shipped`` turned out to be."""
        return "pure" if self._paths.get("shipped") is None else "compiled"

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a process that runs it; one without a build gets ours."""
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WARREN_PURE")}
        path = self._paths.get(name)
        if path is not None:
            return env | {"PYTHONPATH": str(path)}
        return env | ({"PYTHONPATH": str(ROOT / "src"), "WARREN_PURE": "1"} if name else {})


def build_c() -> None:
    """Compile the C program; without librabbitmq-dev its subjects are left out."""
    built = subprocess.run(["make", "-s", "-C", ROOT / "benchmarks" / "c"], capture_output=True, text=True)
    if built.returncode != 0:
        print(f"the C program cannot be built (librabbitmq-dev?):\n{built.stderr}", file=sys.stderr)


def landed() -> Path:
    """The package as it was at the old commit.

    Raises:
        CannotBuild: the commit is not in this clone.
    """
    folder = _FOLDER / LANDED
    if not folder.exists():
        packed = subprocess.run(["git", "archive", LANDED, "src/warren"], cwd=ROOT, capture_output=True, check=False)
        if packed.returncode:
            raise CannotBuild(f"commit {LANDED}, which this clone does not have")
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
    return folder / "src"


def compiled(*, build: bool = True) -> Path:
    """The tree with its hot path compiled, and optimised as the package is.

    Raises:
        CannotBuild: it does not compile; there may be no compiler.
    """
    folder = _FOLDER / "compiled"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with open(_FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be building
        _compile(folder, state(sys.version), build=build)
    return folder


def _compile(folder: Path, state: str, *, build: bool) -> None:
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == state:
        return
    if not build:
        raise CannotBuild("a build from these sources")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = hot.build(folder, "compile", opt_level="3")
    if made.returncode:
        raise CannotBuild(f"a compiler: {(made.stdout + made.stderr).strip().splitlines()[-1:]}")
    stamp.write_text(state)


def state(python: str) -> str:
    """What a build for a Python depends on."""
    digest = hashlib.sha256(python.encode())
    for file in (ROOT / "tools" / "hot.py", *sorted((ROOT / "src" / "warren").rglob("*.py"))):
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
