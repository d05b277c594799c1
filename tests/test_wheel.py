"""The wheel brings the hot path compiled, beside its sources, and both run. One wheel is built for all of these tests.

Without the network: the environment that the wheel is installed in finds everything else where these tests find it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from hot import HIDDEN, HOT, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # compiling takes minutes where others do the same

#: What runs compiled in `make test`; `make compiled`, in the nightly lane, runs all that can.
SUITES = {
    "modules": ["tests/unit/amqp", "tests/unit/protocol", "tests/unit/client", "tests/unit/server"],
    "properties": [
        *(
            f"tests/property/test_{n}.py"
            for n in ("wire", "splitter", "tables", "frames", "acks", "confirms", "codecs")
        ),
        "--hypothesis-profile=quick",
    ],
    "contract": [
        *(f"tests/contract/test_{n}.py" for n in ("calls", "delivery", "endings", "deadlines", "lean", "cancel")),
        *("tests/contract/test_acting.py", "-k", "embedded"),
    ],
}
CALL = """
import asyncio, warren
from warren.broker import Broker

service = warren.Service("calc")

@service.method
def add(a: int, b: int) -> int:
    return a + b

async def main(url: str) -> None:
    async with warren.Server(service, url=url), warren.AsyncClient(url) as client:
        print(warren.compiled, await client.call(add, 2, 3))

with Broker() as broker:
    asyncio.run(main(broker.url))
"""

#: A handler that is cancelled, by its caller, where all warnings are errors.
CANCELLED = """
import asyncio, warren
from warren.broker import Broker

service = warren.Service("calc")
begun, ended = asyncio.Event(), asyncio.Event()

@service.method
async def wait() -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled")
        raise
    finally:
        ended.set()

async def main(url: str) -> None:
    async with warren.Server(service, url=url), warren.AsyncClient(url) as client:
        call = asyncio.create_task(client.call(wait))
        await begun.wait()
        call.cancel()
        await ended.wait()

with Broker() as broker:
    asyncio.run(main(broker.url))
"""


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "WARREN_PURE")} | more
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=1100)


def build_wheel(folder: Path, source: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    pip = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index"]
    return run([*pip, "-w", str(folder), str(source)], MYPYC_OPT_LEVEL="0", **more)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled wheel; not optimised, which takes a third of the time."""
    folder = tmp_path_factory.mktemp("wheel")
    built = build_wheel(folder, WARREN_PURE="0")
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    python = str(folder / "bin" / "python")
    assert run([sys.executable, "-m", "venv", "--without-pip", str(folder)]).returncode == 0
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    installed = run(pip)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    home = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    (home / "others.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth, of this checkout, is not read
    return python


def test_the_wheel_is_for_this_python_and_has_each_hot_module_compiled_and_as_source(wheel: Path) -> None:
    assert f"-cp{sys.version_info.major}{sys.version_info.minor}-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compiled = {name for name in names if name.endswith(suffix)}
    assert compiled == {f"warren/{name}{suffix}" for name in (*HOT, *HIDDEN)} | {f"warren__mypyc{suffix}"}
    assert {f"warren/{name}.py" for name in (*HOT, *HIDDEN)} <= {*names}


@pytest.mark.parametrize(("pure", "compiled", "words"), [("0", True, "compiled by mypyc"), ("1", False, "pure Python")])
def test_a_call_is_answered_compiled_and_pure(python: str, pure: str, compiled: bool, words: str) -> None:
    called = run([python, "-c", CALL], WARREN_PURE=pure)
    assert called.stdout == f"{compiled} 5\n", called.stderr
    assert words in run([python, "-m", "warren", "--version"], WARREN_PURE=pure).stdout


@pytest.mark.parametrize("pure", ["0", "1"])
def test_a_handler_is_cancelled_where_warnings_are_errors(python: str, pure: str) -> None:
    cancelled = run([python, "-W", "error", "-c", CANCELLED], WARREN_PURE=pure)
    assert (cancelled.stdout, cancelled.stderr) == ("cancelled\n", "")


@pytest.mark.parametrize("suite", SUITES)
def test_what_works_with_either_works_compiled(python: str, suite: str) -> None:
    folder = run([python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"]).stdout.strip()
    pytest_ = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/compiled.py"]
    tested = run([*pytest_, *SUITES[suite]], WARREN_COMPILED=folder)
    assert tested.returncode == 0, tested.stdout[-5000:] + tested.stderr


def test_a_wheel_of_plain_python_is_for_every_python(tmp_path: Path) -> None:
    built = build_wheel(tmp_path, WARREN_PURE="1")
    assert built.returncode == 0, built.stderr
    assert [path.name.partition("-py3")[2] for path in tmp_path.iterdir()] == ["-none-any.whl"]


def test_without_a_compiler_the_wheel_is_plain_python_and_the_build_says_so(tmp_path: Path) -> None:
    built = build_wheel(tmp_path, CC="no-such-compiler")
    assert "Warren's wheel will be plain Python" in built.stdout + built.stderr
    assert "there is no C compiler (no-such-compiler)" in built.stdout + built.stderr
    assert [path.name.partition("-py3")[2] for path in tmp_path.iterdir()] == ["-none-any.whl"]


def test_without_a_compiler_a_demand_for_compiled_modules_is_an_error(tmp_path: Path) -> None:
    built = build_wheel(tmp_path, CC="no-such-compiler", WARREN_PURE="0")
    assert built.returncode != 0
    assert "WARREN_PURE=0 demands a compiled wheel of Warren, but there is no C compiler" in built.stdout + built.stderr


def test_what_mypyc_refuses_ends_in_a_wheel_of_plain_python(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("src", "pyproject.toml", "hatch_build.py", "tools/hot.py", "README.md", "LICENSE"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / name, tree / name) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, tree / name)
    with (tree / "src/warren/amqp/acks.py").open("a") as module:
        module.write("this is no Python\n")
    built = build_wheel(tmp_path / "dist", tree)
    assert "Warren's wheel will be plain Python" in built.stdout + built.stderr
    assert "acks.py:" in built.stdout + built.stderr
    assert [path.name.partition("-py3")[2] for path in (tmp_path / "dist").iterdir()] == ["-none-any.whl"]
