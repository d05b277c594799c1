"""What ``warren serve`` logs, and who may say how."""

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start

HELLO = """

import logging

{setup}


@service.method
def hello() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("app").log(level, "hello at %d", level)
"""

_DICT_CONFIG = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"mine": {"format": "MINE %(name)s %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["mine"]},
})
"""

CONFIG = {
    "formatters": {"file": {"format": "FILE %(process)d %(name)s %(message)s"}},
    "handlers": {"file": {"class": "logging.StreamHandler", "formatter": "file"}},
    "root": {"level": "DEBUG", "handlers": ["file"]},
}
TOML = """
[formatters.file]
format = "FILE %(process)d %(name)s %(message)s"
[handlers.file]
class = "logging.StreamHandler"
formatter = "file"
[root]
level = "DEBUG"
handlers = ["file"]
"""


def output_of(start: Start, run: Run, folder: Path, name: str, setup: str, *options: str) -> str:
    """What is logged when a module that sets its logging up like this serves a call."""
    with open(folder / "calc.py", "a") as module:
        module.write(HELLO.format(setup=setup))
    serve = start("serve", "calc:service", *options)
    serve.wait_worker(1)
    assert run("call", f"{name}.hello").returncode == 0
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    serve.wait_silent()
    assert "pika" not in serve.output  # what it has to say, Warren says better
    return serve.output


def test_without_any_setup_the_application_is_heard_from_info_on(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    output = output_of(start, run, folder, service_name, "")
    assert " INFO worker-1 app: hello at 20\n" in output
    assert "hello at 10" not in output


def test_the_level_can_be_chosen(start: Start, run: Run, folder: Path, service_name: str) -> None:
    output = output_of(start, run, folder, service_name, "", "--log-level", "debug")
    assert " DEBUG worker-1 app: hello at 10\n" in output


@pytest.mark.parametrize(
    "setup",
    [
        'logging.basicConfig(level=logging.INFO, format="MINE %(name)s %(message)s")',
        _DICT_CONFIG,
        "\n".join(
            (
                "handler = logging.StreamHandler()",
                'handler.setFormatter(logging.Formatter("MINE %(name)s %(message)s"))',
                "logging.getLogger().addHandler(handler)",
                "logging.getLogger().setLevel(logging.INFO)",
            )
        ),
    ],
    ids=["basicConfig", "dictConfig", "by hand"],
)
def test_what_a_module_has_set_up_is_left_alone_and_warren_speaks_through_it(
    start: Start, run: Run, folder: Path, service_name: str, setup: str
) -> None:
    output = output_of(start, run, folder, service_name, setup)
    assert output.count("hello at 20") == 1
    assert "MINE app hello at 20\n" in output
    assert "hello at 10" not in output
    assert f"MINE warren.server serving {service_name}" in output
    assert "main warren.processes: worker-1 is ready" in output
    assert "INFO worker-1" not in output


def test_a_level_that_is_asked_for_goes_before_the_modules(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    setup = 'logging.basicConfig(level=logging.WARNING, format="MINE %(message)s")'
    assert "MINE hello at 10\n" in output_of(start, run, folder, service_name, setup, "--log-level", "debug")


def test_a_level_that_the_module_sets_without_a_handler_is_left_alone(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    output = output_of(start, run, folder, service_name, "logging.getLogger().setLevel(logging.DEBUG)")
    assert " DEBUG worker-1 app: hello at 10\n" in output


@pytest.mark.parametrize(("name", "text"), [("log.json", json.dumps(CONFIG)), ("log.toml", TOML)])
@pytest.mark.parametrize("setup", ["", _DICT_CONFIG], ids=["plain", "dictConfig"])
def test_a_file_says_it_for_all_processes_whatever_the_module_does(
    start: Start, run: Run, folder: Path, service_name: str, name: str, text: str, setup: str
) -> None:
    (folder / name).write_text(text)
    output = output_of(start, run, folder, service_name, setup, "--log-config", name)
    lines = [line for line in output.splitlines() if line]
    assert all(line.startswith("FILE ") for line in lines)
    assert any(line.endswith("app hello at 10") for line in lines)
    assert any("warren.processes worker-1 is ready" in line for line in lines)
    assert any(f"warren.server serving {service_name}" in line for line in lines)


def test_a_file_may_name_what_the_application_defines(start: Start, run: Run, folder: Path, service_name: str) -> None:
    (folder / "shout.py").write_text(
        "import logging\nclass Shout(logging.Formatter):\n"
        '    def format(self, record): return super().format(record) + "!"\n'
    )
    (folder / "log.json").write_text(json.dumps(CONFIG | {"formatters": {"file": {"()": "shout.Shout"}}}))
    assert "hello at 20!\n" in output_of(start, run, folder, service_name, "", "--log-config", "log.json")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.json", None, "cannot be read: No such file or directory\n"),
        ("log.json", "{", "has to be a dictionary for logging.config.dictConfig, in JSON"),
        ("log.toml", "[", "has to be a dictionary for logging.config.dictConfig, in JSON"),
        ("log.json", "[]", "a dictionary for logging.config.dictConfig"),
        ("log.json", '{"root": {"handlers": ["none"]}}', "Unable to configure root logger"),
        ("log.json", '{"handlers": {"a": {"class": "nowhere.Handler"}}}', "Unable to configure handler 'a'"),
    ],
)
def test_a_file_that_cannot_be_used_is_wrong_usage(run: Run, folder: Path, name: str, text: str, says: str) -> None:
    if text is not None:
        (folder / name).write_text(text)
    done = run("serve", "calc:service", "--log-config", name)
    assert done.returncode == 2
    assert f"--log-config {name}: " in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_all_processes_log_json_where_it_is_asked_for_and_a_line_for_each_call(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    setup = "logging.getLogger('app').setLevel('INFO')"
    output = output_of(start, run, folder, service_name, setup, "--log-format", "json", "--access-log")
    lines = [json.loads(line) for line in output.splitlines() if line]
    assert {line["process"] for line in lines} == {"main", "worker-1"}
    (own,) = [line for line in lines if line["logger"] == "app" and line["message"].endswith("at 20")]
    (access,) = [line for line in lines if line["logger"] == "warren.access"]
    assert access["ending"] == "OK"
    assert access["call_id"] == access["root_id"] == own["call_id"] == own["root_id"]
    assert own["service"] == access["service"] == service_name
    assert own["method"] == access["method"]
