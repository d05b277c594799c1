"""The documentation: its links lead somewhere, its code runs, its tables say what the source says."""

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import warren
from floorplan import as_mermaid, read
from rabbit import Node
from tests.support import nodes
from warren import Code, Execution
from warren.broker import Broker
from warren.cli.commands import COMMANDS
from warren.protocol import evidence

pytestmark = pytest.mark.timeout(1200)  # tutorials take their time

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "warren"
SOURCES = sorted(SOURCE.rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()

#: Words in capitals in the source that are not the reason of an error.
_OTHER_WORDS = {
    "GET",
    "HEAD",
    "POST",
    "WARREN_DASHBOARD_TOKEN",
    "CALL_ID",
    "COLUMNS",
    "INSTANCE",
    "ITS_OWN",
    "MODULE",
    "NAME",
    "TERM",
    "UNSET",
    "ARGS",
    "BCC",
    "FILE",
    "CC",
    "ID",
    "NO_COLOR",
    "NOTIFY_SOCKET",
    "PORT",
    "READY",
    "STOPPING",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "PYTHONPATH",
    "PATH",
    "SECONDS",
    "SERVICE",
    "TIME",
    "URL",
    "WARREN_BROKER_USER",
    "WARREN_PURE",
    "WARREN_URL",
    *Code,
    *Execution,
}
#: ... except these, which are both: what an error is called when nobody gave a finer reason.
_BOTH = {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"}

_FENCE = re.compile(r"(?:<!-- (?P<mark>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_URL = "amqp://localhost"


def blocks(page: Path, language: str, mark: str | None = None) -> list[str]:
    """The fenced blocks of a page in one language, those with a comment that begins with `mark` where one is given."""
    found = _FENCE.finditer(page.read_text())
    return [
        m["code"] for m in found if m["language"] == language and (mark is None or (m["mark"] or "").startswith(mark))
    ]


def page_id(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else ""


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    broken = []
    for target in _LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_python_block_compiles(page: Path) -> None:
    for number, code in enumerate(blocks(page, "python"), 1):
        compile(code, f"{page.name}, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(?:`|^\$? ?)warren ([a-z][a-z-]*)", page.read_text(), re.M)
    assert [command for command in named if command not in COMMANDS] == []


def test_every_page_that_the_source_refers_to_exists() -> None:
    named = {name for source in SOURCES for name in re.findall(r"\bdocs/[\w/.-]+\.md", source.read_text())}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_version_is_the_same_in_both_places_and_the_changelog_knows_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == warren.__version__
    assert warren.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []


# --- tables -------------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference() -> None:
    tree = ast.parse((ROOT / "src" / "warren" / "__init__.py").read_text())
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    names = [alias.asname for alias in aliases if alias.asname]
    assert len(names) > 15
    assert [name for name in names if not re.search(rf"`{name}\b", REFERENCE)] == []


def test_every_reason_is_in_the_table_of_errors_and_the_other_way_round() -> None:
    rows = _rows("errors")
    documented = {reason for row in rows for reason in re.findall(r"`([A-Z_]+)`", row[0])}
    assert documented == _reasons()


def _reasons() -> set[str]:
    """The words in capitals of the source that can be an error's reason."""
    words = set()
    for source in SOURCES:
        if source.parent.name == "broker":  # reply codes of AMQP, which reach a caller as text only
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words |= set(re.findall(r"\A[A-Z][A-Z0-9_]+\Z", node.value))
    return (words - _OTHER_WORDS) | _BOTH


@pytest.mark.parametrize(
    "option", ["Client", "AsyncClient", "Server", "Service", "AsyncClient.options", "Service.method"]
)
def test_every_option_of_the_api_is_in_the_reference(option: str) -> None:
    function: Any = warren
    for part in option.split("."):
        function = getattr(function, part)
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "function")]
    assert [name for name in names if not re.search(rf"\b{name}\b", REFERENCE)] == []


def test_every_default_is_what_the_source_says() -> None:
    rows = _rows("defaults")
    assert len(rows) > 15
    for _what, value, _unit, where in rows:
        assert float(value.replace(",", "")) == _constant(where.strip("`")), where


def test_the_table_of_evidence_is_what_the_source_says() -> None:
    rows = _rows("evidence", (ROOT / "docs" / "wire.md").read_text())
    assert rows == [
        [f"`{name}`", f"{ending.code.value} / {ending.reason}", _proves(ending), ending.proof]
        for name, ending in evidence.endings()
    ]


def _proves(ending: evidence.Ending) -> str:
    return "EXECUTED if the handler was entered, else NOT_EXECUTED" if ending.proves is None else ending.proves.value


def test_the_table_of_errors_claims_for_each_reason_what_its_endings_prove_and_no_more() -> None:
    rows = {tuple(row[0].replace("`", "").split(" / ")): row for row in _rows("errors")}
    for code, reason in {(ending.code.value, ending.reason) for _name, ending in evidence.endings()}:
        same = [ending for _name, ending in evidence.endings() if (ending.code, ending.reason) == (code, reason)]
        proven = {ending.proves or Execution.EXECUTED for ending in same}
        earlier = {Execution.UNKNOWN}  # always possible: see `evidence.weigh`
        by_entering = {Execution.NOT_EXECUTED} if any(ending.proves is None for ending in same) else set()
        claimed = {Execution(word) for word in re.findall(rf"\b(?:{'|'.join(Execution)})\b", rows[code, reason][1])}
        assert proven <= claimed <= proven | by_entering | earlier, reason
        assert [ending.origin for ending in same if ending.origin.value not in rows[code, reason][2]] == [], reason


def _rows(mark: str, page: str = REFERENCE) -> list[list[str]]:
    """The cells of the table that follows a comment."""
    table = re.search(rf"<!-- {mark} -->\n((?:\|.*\n)+)", page)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


def _constant(where: str) -> Any:
    """``module.NAME``, ``module.NAME[key]``, or ``module.function(parameter)`` for a parameter's default."""
    match = re.fullmatch(r"([\w.]+?)(?:\[(.+)\]|\((\w+)\))?", where)
    assert match is not None
    path, key, parameter = match.groups()
    value = _resolve(path)
    if parameter is not None:
        return inspect.signature(value).parameters[parameter].default
    return value if key is None else value[key]


def _resolve(path: str) -> Any:
    names = path.split(".")
    for count in range(len(names), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(names[:count]))
        except ModuleNotFoundError:
            continue
        for name in names[count:]:
            value = getattr(value, name)
        return value
    raise AssertionError(f"there is no {path}")


# --- words --------------------------------------------------------------------------------------------------------

GLOSSARY = ROOT / "docs" / "glossary.md"


def _glossary() -> Iterator[tuple[str, list[str]]]:
    """The tables of the glossary, under their headings."""
    for heading, table in re.findall(r"^## (.+)\n\n((?:\|.*\n)+)", GLOSSARY.read_text(), re.M):
        for line in table.splitlines()[2:]:
            yield heading, [cell.strip() for cell in line.strip("|").split("|")]


def test_the_glossary_has_each_word_once() -> None:
    words = [word for _heading, row in _glossary() for word in re.split(r", (?:to )?", row[0])]
    assert len(words) > 60
    assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize("page", [page for page in PAGES if page != GLOSSARY and "adr" not in page.parts], ids=page_id)
def test_the_pages_are_in_plain_english(page: Path) -> None:
    avoided = [row[1] for heading, row in _glossary() if heading == "Plain English"]
    assert len(avoided) > 4
    text = " ".join(page.read_text().split())
    assert [phrase for phrase in avoided if re.search(rf"\b{phrase}(?!\w)", text)] == []


# --- the tour of the source ---------------------------------------------------------------------------------------

ARCHITECTURE = ROOT / "docs" / "architecture.md"
NAMED = set(re.findall(r"(?<![\w./])[\w/]+\.py\b", ARCHITECTURE.read_text()))


def test_every_file_that_the_tour_names_exists() -> None:
    assert len(NAMED) > 50
    assert [name for name in sorted(NAMED) if not any((root / name).exists() for root in (SOURCE, ROOT))] == []


@pytest.mark.parametrize("room", ["amqp", "protocol", "connection", "client", "server"])
def test_the_tour_names_every_module_of_the_inner_rooms(room: str) -> None:
    modules = {f"{room}/{path.name}" for path in (SOURCE / room).glob("*.py")} - {f"{room}/__init__.py"}
    assert len(modules) > 3
    assert modules - NAMED == set()


def test_the_tours_drawing_of_the_rooms_is_what_make_map_draws() -> None:
    assert [drawing.rstrip() for drawing in blocks(ARCHITECTURE, "mermaid")] == [as_mermaid(read())], (
        "paste the output of `make map ARGS=--mermaid` into docs/architecture.md"
    )


def test_the_list_of_scenarios_is_what_the_fault_tests_are_marked_with(tmp_path: Path) -> None:
    listed = tmp_path / "scenarios.md"
    command = [sys.executable, "-m", "pytest", "tests/faults", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    subprocess.run([*command, "--scenario-table", listed], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=60)
    assert (ROOT / "docs" / "reliability-scenarios.md").read_text() == listed.read_text(), "run `make scenarios`"


# --- the tutorial and the guides, run -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def docs_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker or vhost of their own: the documentation's services have fixed names."""
    if request.param == "embedded":
        with Broker() as broker:
            yield broker.url
    else:
        yield from _vhost(request.getfixturevalue("rabbit"))


def _vhost(rabbit: Node) -> Iterator[str]:
    nodes.add_vhost(rabbit, "docs")
    yield f"{rabbit.url}docs"
    nodes.delete_vhost(rabbit, "docs")


@pytest.fixture(scope="module")
def folder(docs_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the tutorial's files and the tutorial's two workers running in it."""
    folder = tmp_path_factory.mktemp("docs")
    page = ROOT / "docs" / "tutorial.md"
    for name in re.findall(r"<!-- file: (\S+) -->", page.read_text()):
        (folder / name).write_text(blocks(page, "python", f"file: {name}")[0].replace(_URL, docs_url))
    with _workers(folder, docs_url, "calc (divide, fib, nap), 32 at a time", 2):
        yield folder


@contextmanager
def _workers(folder: Path, url: str, served: str, count: int) -> Iterator[None]:
    module = served.partition(" ")[0]
    command = [sys.executable, "-m", "warren", "serve", f"{module}:service", "--workers", str(count)]
    workers = subprocess.Popen(command, cwd=folder, env=_environment(url), stderr=subprocess.PIPE, text=True)
    assert workers.stderr is not None
    try:
        serving = 0
        for line in workers.stderr:
            serving += f"serving {served}" in line
            if serving == count:
                break
        assert serving == count, "the workers ended"
        yield
    finally:
        workers.terminate()
        workers.communicate(timeout=60)


def _environment(url: str) -> dict[str, str]:
    return os.environ | {"WARREN_URL": url, "PYTHONPATH": str(ROOT / "src"), "TERM": "dumb"}


def test_the_tutorials_commands_print_what_it_says(folder: Path, docs_url: str) -> None:
    with _workers(folder, docs_url, "texts (shorten, shout, words), 32 at a time", 1):
        _check_sessions(folder, docs_url)


def _check_sessions(folder: Path, docs_url: str) -> None:
    for session in blocks(ROOT / "docs" / "tutorial.md", "console"):
        for command, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", session, re.M):
            assert _masked(_run(command, folder, docs_url)) == _masked(expected), command


def test_the_tutorials_service_with_a_lifespan_answers_as_it_says(folder: Path, docs_url: str) -> None:
    with _workers(folder, docs_url, "shop (prize)", 1):
        assert _run("warren call shop.prize 10", folder, docs_url) == "55 carrots\n"


def _run(command: str, folder: Path, url: str) -> str:
    program, *arguments = shlex.split(command)
    prefix = {"warren": [sys.executable, "-m", "warren"], "python": [sys.executable]}[program]
    done = subprocess.run(
        [*prefix, *arguments],
        cwd=folder,
        env=_environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout


def test_errors_that_the_tutorial_only_shows_are_worded_as_in_the_source() -> None:
    shown = [re.match(r"error: \S+: (.+) \[", text) for text in blocks(ROOT / "docs" / "tutorial.md", "text")]
    words = {message[1] for message in shown if message is not None}
    assert words
    assert words - _texts() == set()


def _texts() -> set[str]:
    """All strings that stand in the source."""
    nodes = (node for source in SOURCES for node in ast.walk(ast.parse(source.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _masked(text: str) -> str:
    """Without what differs from call to call, and from Python 3.14 on."""
    return re.sub(r"call [0-9a-f]{24}", "call ID", text).replace("float division by zero", "division by zero")


_RUN = [
    pytest.param(code, id=f"{page.name}-{n}")
    for page in PAGES
    for n, code in enumerate(blocks(page, "python", "run"), 1)
]


@pytest.mark.parametrize("code", _RUN)
def test_a_snippet_that_is_marked_runs(code: str, folder: Path, docs_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code.replace(_URL, docs_url)],
        cwd=folder,
        env=_environment(docs_url),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# --- what is installed --------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_reference_has_every_extra() -> None:
    table = REFERENCE.partition("<!-- extras -->")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.M) == list(PROJECT["project"]["optional-dependencies"])


def test_the_source_distribution_has_what_the_readme_links_to() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    linked = {target.partition("#")[0] for target in _LINK.findall((ROOT / "README.md").read_text())}
    files = {target for target in linked if target and "://" not in target}
    assert len(files) > 10
    assert {file for file in files if not any(fnmatch(f"/{file}", f"{part}*") for part in included)} == set()
