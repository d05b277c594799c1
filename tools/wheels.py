"""Builds what this machine can build of a release's wheels into dist/: ``make wheels``.

    python tools/wheels.py                   a compiled wheel for each Python >= 3.11 here, and one of plain Python
    python tools/wheels.py python3.13 …      for these only

Each is built in an environment of its own, where pip gets what compiling needs. Releases take those of cibuildwheel,
which run on more systems than the one they were built on; see docs/releases.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
_MINORS = (11, 12, 13, 14)
_TELL = "import sys, sysconfig; print(sysconfig.get_config_var('SOABI'), sys.version_info >= (3, 11))"


def candidates() -> Iterator[str]:
    """Pythons on PATH, and pyenv's."""
    yield sys.executable
    names = (f"python3.{minor}{kind}" for minor in _MINORS for kind in ("", "t"))  # t: free-threaded
    yield from (path for name in names if (path := shutil.which(name)))
    yield from sorted(map(str, Path.home().glob(".pyenv/versions/*/bin/python")))


def found(commands: Iterator[str] | list[str]) -> dict[str, str]:
    """One Python of each version and kind that is new enough and runs, by what its compiled files are called."""
    pythons: dict[str, str] = {}
    for command in commands:
        told = subprocess.run([command, "-c", _TELL], capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.endswith(" True\n"):
            pythons.setdefault(told.stdout.split()[0], command)
    return pythons


def free_threaded(tag: str) -> bool:
    """Whether compiled files of that name are for a Python without the lock, which runs plain Python only."""
    return tag.split("-")[1].endswith("t")


def build(command: str, pure: str) -> bool:
    """Build one wheel; ``pure`` is what `WARREN_PURE` says."""
    with tempfile.TemporaryDirectory(prefix="warren-wheels-") as folder:
        subprocess.run([command, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "-w", str(DIST), str(ROOT)], env=os.environ | {"WARREN_PURE": pure}, check=False)
    return done.returncode == 0


def main(commands: list[str]) -> int:
    pythons = found(commands or candidates())
    jobs = [(command, "0") for tag, command in pythons.items() if not free_threaded(tag)] + [(sys.executable, "1")]
    failed = [command for command, pure in jobs if not build(command, pure)]
    print(*sorted(path.name for path in DIST.glob("*.whl")), sep="\n")
    if failed:
        print("no wheel of:", *failed, file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
