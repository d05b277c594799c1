"""What ``warren`` says about itself, and how soon."""

import functools
import re
import resource
import subprocess
import sys

import pytest

import warren
from tests.cli.running import PATIENCE, WARREN, environment


@functools.cache
def output(*args: str) -> str:
    done = subprocess.run(
        [*WARREN, *args], env=environment(COLUMNS="80"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_version() -> None:
    runs = "compiled by mypyc" if warren.compiled else "pure Python"
    assert output("--version") == f"warren {warren.__version__} ({runs})\n"


def test_help_names_the_commands_and_hides_their_helpers() -> None:
    words = output("--help")
    assert re.search(r"serve +Serve services", words)
    assert re.search(r"call +Call a method", words)
    assert re.search(r"bench +Call a method as fast", words)
    assert "worker process of" not in words
    assert "echo service" not in words


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "6", "7", "130"])
def test_help_of_call_tells_what_each_exit_code_means(code: str) -> None:
    exit_codes = output("call", "--help").partition("Exit codes")[2]
    assert re.search(rf"^ +{code} +\w+", exit_codes, re.MULTILINE)


def test_help_of_serve_tells_where_the_url_may_come_from() -> None:
    words = output("serve", "--help")
    assert "WARREN_URL" in words
    assert "amqp://localhost" in words


def test_help_takes_little_more_of_the_processor_than_its_libraries() -> None:
    """A machine that is slow is slow in both."""
    output.__wrapped__("--help")  # compiles what has changed
    libraries = [sys.executable, "-c", "import argparse, asyncio, msgspec, pika"]
    assert seconds_of(*WARREN, "--help") < 3 * seconds_of(*libraries)


def seconds_of(*command: str) -> float:
    """What a process takes of the processor, at best."""
    return min(_seconds_of(command) for _ in range(3))


def _seconds_of(command: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["call", "a.b", "--url", "foo"], 2, "it has no scheme"),
        (["dead", "list", "a", "--url", "amqp://host:port"], 2, "a port must be a number"),
        (["call", "a.b", "--encoding", "xml"], 2, "argument --encoding: invalid choice: 'xml'"),
        (["dead", "list", "a", "--older-than", "soon"], 2, "is not a length of time"),
        (["dead", "retry", "a"], 2, "say which"),
        (["dead", "drop", "a", "id", "--reason", "POISON"], 2, "go with --all"),
        (["broker", "status", "--url", "foo"], 2, "it has no scheme"),
        (["broker", "status", "--socket", "/nonexistent"], 3, "no broker can be reached"),
        (["broker", "--host", "\udcff", "--port", "0"], 1, "cannot listen on \\udcff:0"),
        (["call", "a.b", "[" * 100_000], 2, "nested too deeply"),
        (["dead", "count", "a", "--url", "amqp://localhost:1?name=" + "n" * 300], 3, "connection refused"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_what_makes_no_sense_gets_an_error_and_no_traceback(args: list[str], code: int, said: str) -> None:
    done = subprocess.run([*WARREN, *args], env=environment(), capture_output=True, timeout=PATIENCE)
    error = done.stderr.decode()
    assert (done.returncode, "Traceback" in error) == (code, False), error
    assert said in error


def test_a_disk_that_is_full_is_told_and_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*WARREN, "--version"], env=environment(), stdout=full, stderr=-1, timeout=PATIENCE)
    assert done.returncode == 7
    assert done.stderr == (
        b"error: cannot write the output: No space left on device; the command may be done all the same\n"
    )


def test_a_closed_pipe_ends_a_command_silently() -> None:
    process = subprocess.Popen([*WARREN, "--help"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _none, error = process.communicate(timeout=PATIENCE)
    assert error == b""


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [("call a.b --url amqp://127.0.0.1:1", "2>&-", 3), ("call --bogus", "2>&-", 2), ("--version", ">&-", 0)],
)
def test_a_closed_stream_changes_no_exit_code(words: str, closed: str, code: int) -> None:
    command = ["sh", "-c", f'exec "$@" {words} {closed}', "sh", *WARREN]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@pytest.mark.parametrize("columns", ["1", "2", "3", "22"])
def test_the_terminal_may_be_as_narrow_as_it_likes(columns: str) -> None:
    narrow = environment() | {"COLUMNS": columns}
    done = subprocess.run([*WARREN, "call", "--help"], env=narrow, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
