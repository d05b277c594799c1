"""What ``warren`` says about itself, and how soon."""

import functools
import re
import resource
import subprocess

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
    assert output("--version") == f"warren {warren.__version__}\n"


def test_help_names_the_commands_and_hides_their_helpers() -> None:
    words = output("--help")
    assert re.search(r"serve +Serve services", words)
    assert re.search(r"call +Call a method", words)
    assert re.search(r"bench +Call a method as fast", words)
    assert "worker process of" not in words
    assert "echo service" not in words


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "6", "130"])
def test_help_of_call_tells_what_each_exit_code_means(code: str) -> None:
    exit_codes = output("call", "--help").partition("Exit codes")[2]
    assert re.search(rf"^ +{code} +\w+", exit_codes, re.MULTILINE)


def test_help_of_serve_tells_where_the_url_may_come_from() -> None:
    words = output("serve", "--help")
    assert "WARREN_URL" in words
    assert "amqp://localhost" in words


def test_help_takes_less_than_a_second_of_the_processor() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output.__wrapped__("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
