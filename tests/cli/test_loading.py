"""The names of services that people type, and what they are told when one is wrong."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.processes.loading import ImportFailed, LoadError, load_services

GOOD = """
from warren import Service

service = Service("good")
service_too = service

class App:
    service = Service("inner")

def function():
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; the modules in it are forgotten afterwards."""
    before = set(sys.modules)
    (tmp_path / "ld_good.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("ld_"):
            del sys.modules[name]


def refusal(spec: str) -> str:
    with pytest.raises(LoadError) as refused:
        load_services([spec])
    return str(refused.value)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("ld_good:service", "good"),
        ("ld_good:App.service", "inner"),
        ("ld_good", "good"),  # two names for the same one
    ],
)
def test_a_service_is_found_by_its_name(spec: str, name: str) -> None:
    assert [service.name for service in load_services([spec])] == [name]


def test_a_module_in_a_package_is_found(folder: Path) -> None:
    (folder / "ld_package").mkdir()
    (folder / "ld_package" / "app.py").write_text(GOOD)
    assert load_services(["ld_package.app"])[0].name == "good"


def test_a_module_that_is_not_there_is_named_with_the_places_looked_at(folder: Path) -> None:
    assert refusal("ld_nothing:service").startswith(f"there is no module 'ld_nothing', neither in {folder} nor")
    assert refusal("ld_nothing.app:service").startswith("there is no module 'ld_nothing'")
    assert refusal("ld_good.app:service").startswith("there is no module 'ld_good.app'")


@pytest.mark.parametrize("spec", ["ld_good.py", "ld_good.py:service", "./ld_good.py", "./ld_good.py:service"])
def test_a_file_is_answered_with_the_module_to_say(spec: str) -> None:
    assert refusal(spec).endswith("say ld_good:service")


@pytest.mark.parametrize("spec", ["", ":", "ld_good:", ":service", "ld_good:a:b", ".ld_good", "ld good"])
def test_a_name_of_the_wrong_form_is_answered_with_an_example(spec: str) -> None:
    assert "does not name a service: say" in refusal(spec)


def test_a_missing_attribute_is_answered_with_the_services_there_are() -> None:
    assert refusal("ld_good:app") == "module 'ld_good' has no 'app': say ld_good:service or ld_good:service_too"
    assert refusal("ld_good:App.app").startswith("module 'ld_good' has no 'App.app': say")


def test_what_is_no_service_is_named_with_its_type() -> None:
    assert refusal("ld_good:function").startswith("ld_good:function is of type function, not a warren.Service: say")


def test_a_module_without_services_is_told_so(folder: Path) -> None:
    (folder / "ld_empty.py").write_text("x = 1")
    assert (
        refusal("ld_empty")
        == "module 'ld_empty' has no warren.Service at its top level: make one there, service = Service('name')"
    )
    assert refusal("ld_empty:x").endswith("not a warren.Service, and no service at its top level")


def test_a_module_with_several_services_asks_which(folder: Path) -> None:
    (folder / "ld_two.py").write_text("from warren import Service\na, b = Service('a'), Service('b')\n")
    assert refusal("ld_two") == "module 'ld_two' has several services: say ld_two:a or ld_two:b"


@pytest.mark.parametrize("line", ["warren.Service('a b')", "warren.Service('a').method(lambda x: x)"])
def test_a_declaration_that_is_refused_is_told_with_the_module_s_line_and_none_of_warren_s(
    folder: Path, line: str
) -> None:
    (folder / "ld_refused.py").write_text(f"import warren\n{line}\n")
    with pytest.raises(ImportFailed) as failed:
        load_services(["ld_refused"])
    text = str(failed.value)
    assert f'File "{folder}/ld_refused.py", line 2' in text
    assert text.count("File ") == 1
    assert re.search(r"^(Value|Type)Error: .+", text.splitlines()[-1])


@pytest.mark.parametrize("line", ["1 / 0", "import ld_missing", "raise SystemExit(3)", "def broken(:"])
def test_a_module_that_fails_is_answered_with_its_own_lines_of_the_traceback(folder: Path, line: str) -> None:
    (folder / "ld_bad.py").write_text(f"\n{line}\n")
    with pytest.raises(ImportFailed) as failed:
        load_services(["ld_bad"])
    text = str(failed.value)
    assert text.startswith("importing 'ld_bad' failed:\n")
    assert f'File "{folder}/ld_bad.py", line 2' in text
    assert text.count("File ") == 1
