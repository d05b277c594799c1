"""What may be typed in which order, and what people are told when it is wrong."""

import pytest

from tests.cli.running import run_here
from warren.cli.commands import MEANT, below
from warren.cli.parser import Parser, number


@pytest.fixture
def parser() -> Parser:
    parser = Parser("call", "Call a method.", {})
    parser.add_argument("target")
    parser.add_argument("arguments", nargs="*", default=[])
    parser.add_argument("--rate", type=number(float))
    parser.flag("--json", dest="as_json", help="JSON.")
    return parser


@pytest.mark.parametrize(
    "words",
    [
        ["a.b", "1", "2", "--json", "--rate", "3"],
        ["--json", "a.b", "1", "--rate=3", "2"],
        ["--rate", "3", "a.b", "--json", "1", "2"],
    ],
)
def test_options_may_stand_anywhere(parser: Parser, words: list[str]) -> None:
    assert parser.read(words) == {"target": "a.b", "arguments": ["1", "2"], "rate": 3.0, "as_json": True}


@pytest.mark.parametrize("values", [["-5"], ["-1e5", "3"], ["1", "-1e5", "3"], ["-5", "-x", "-1e5"], ["-1", "text"]])
def test_what_begins_with_one_dash_may_be_an_argument_and_keeps_its_place(parser: Parser, values: list[str]) -> None:
    parser.rest = "arguments"
    assert parser.read(["a.b", *values, "--json"])["arguments"] == values


def test_behind_two_dashes_everything_is_an_argument(parser: Parser) -> None:
    read = parser.read(["--json", "a.b", "--", "--rate", "-h"])
    assert (read["arguments"], read["as_json"], read["rate"]) == (["--rate", "-h"], True, None)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["srve"], "there is no command srve (did you mean serve?); see warren --help"),
        (["zzz"], "there is no command zzz; see warren --help"),
        (["ps"], "there is no command ps (did you mean ls, ping or health?); see warren --help"),
        (["status"], "there is no command status (did you mean ls, ping or health?)"),
        (["list"], "there is no command list (did you mean ls?)"),
        (["describe", "--stubs", "calc"], "there is no command describe (did you mean info, schema or stubs?)"),
        (["cast", "mail.send"], "there is no command cast (did you mean call --cast?)"),
        (["help", "serve"], "there is no command help (did you mean --help?)"),
        (["dead", "ls", "calc"], "there is no command ls (did you mean list?); see warren dead --help"),
        (["broker", "ps"], "there is no command ps (did you mean status?); see warren broker --help"),
        (["--verson"], "there is no option --verson (did you mean --version?); see warren --help"),
        (["serve", "--worker", "4", "calc"], "there is no option --worker (did you mean --workers?)"),
        (["serve", "--zzz=4", "calc"], "there is no option --zzz; see warren serve --help"),
        (["serve", "--work", "4", "calc"], "there is no option --work (did you mean --workers?)"),  # not even if clear
        (["serve"], "the following arguments are required: MODULE:SERVICE; see warren serve --help"),
        (["serve", "-x", "calc"], "there is no option -x; see warren serve --help"),
        (["serve", "calc", "--workers", "0"], "--workers: '0' is not a whole number of at least 1"),
        (["serve", "calc", "--workers", "two"], "--workers: 'two' is not a whole number of at least 1"),
        (["serve", "calc", "--concurrency", "65536"], "'65536' is not a whole number from 1 to 65535"),
        (["serve", "calc", "--drain-timeout", "nan"], "'nan' is not a number from 0 to 604800"),
        (["serve", "calc", "--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["call", "a.b", "--timeout"], "argument --timeout: expected one argument"),
        (["dead", "lst"], "there is no command lst (did you mean list?); see warren dead --help"),
        (["dead", "show", "a", "b", "c"], "c is one argument too many; see warren dead show --help"),
        (["broker", "statu"], "there is no command statu (did you mean status?); see warren broker --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_that_says_what_would_be_right(args: list[str], words: str) -> None:
    done = run_here(args)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_what_other_tools_call_it_is_no_command_here_and_leads_to_one() -> None:
    for group, names in MEANT.items():
        known = {*below(group), "--help", "--version"}
        theirs = [name for several in names for name in several]
        assert len(theirs) == len(set(theirs))
        assert not set(theirs) & known
        for ours in (one for several in names.values() for one in several):
            first, *rest = ours.split()
            assert first in known
            assert all(word.startswith("--") or word in below(first) for word in rest)


def test_warren_alone_shows_its_help_and_is_wrong_usage() -> None:
    done = run_here([])
    assert (done.exit_code, done.stderr) == (2, "")
    assert done.stdout == run_here(["--help"]).stdout


def test_a_url_of_the_environment_is_not_shown() -> None:
    assert "secret" not in run_here(["call", "--help"], WARREN_URL="amqp://user:secret@host").stdout


def test_an_empty_variable_is_none() -> None:
    done = run_here(["broker", "status", "--socket", "/nonexistent"], WARREN_URL="")
    assert (done.exit_code, "no broker can be reached" in done.stderr) == (3, True)
