"""The example of docs/testing.md: its tests pass, on either broker, and the page shows what is in the files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.serving import ROOT

pytestmark = pytest.mark.timeout(1200)  # suites of their own

FILES = sorted((ROOT / "examples" / "testing").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_page_shows_the_file_as_it_is(path: Path) -> None:
    assert f"```python\n{path.read_text()}```" in (ROOT / "docs" / "testing.md").read_text()


def _run(folder: Path, *options: str) -> str:
    """Run the example's tests as a user would, in a folder without our configuration."""
    for path in FILES:
        shutil.copy(path, folder)
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done.stdout + done.stderr


def test_its_tests_pass_on_the_embedded_broker(tmp_path: Path) -> None:
    assert "7 passed" in (output := _run(tmp_path)), output


def test_its_tests_pass_on_rabbitmq_but_for_the_fault_of_the_embedded_broker(tmp_path: Path, url: str) -> None:
    output = _run(tmp_path, f"--warren-url={url}")
    assert "1 failed, 6 passed" in output, output
    assert "stall() is done by the embedded broker" in output


def test_in_its_own_folder_the_options_of_the_project_do_not_count() -> None:
    """They need plugins that somebody who tries the example does not have."""
    folder = FILES[0].parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert f"rootdir: {folder}\nconfigfile: pytest.ini\n" in done.stdout
