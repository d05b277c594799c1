"""The commands of operators: what they show, and what they end with, whatever processes say."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.cli.running import Result, run_here
from tests.support.fake_process import fake_process
from tests.support.serving import serving
from warren import Code, Service
from warren.broker import Broker
from warren.errors import make_error
from warren.histogram import Histogram
from warren.protocol.control import Question

Warren = Callable[..., Awaitable[Result]]

EVIL = "\x1b]0;owned\x07\x1b[2J\n\u202eforged"


def histogram(*seconds: float) -> dict[str, Any]:
    made = Histogram()
    made.record_all(seconds)
    return made.as_object()


def answers(service: str, text: str = "text") -> dict[str, Any]:
    """What a process may say; `text` is wherever a peer can put one."""
    method = {
        "ended": 1234,
        "failed": {f"UNKNOWN/{text}": 3},
        "wait": histogram(0.001, 0.002),
        "work": histogram(0.01, 0.2, 1.5),
        "callers": {text: {"count": 1200, "failed": 3, "total": 12.0}, "": {"count": 34, "failed": 0, "total": 1.0}},
    }
    declared = {
        "name": "fib",
        "doc": text,
        "signature": f"fib(n: int) -> {text}",
        "arguments": {"type": "object", "properties": {"n": {"type": "integer", "title": text}}, "required": ["n"]},
        "result": {"type": "integer"},
    }
    process = {"name": text, "host": text, "pid": 7, "state": text, "warren": text, "python": text}
    numbers = {
        "lately": {"ended": 25, "seconds": 10.0},
        "running": 1,
        "waiting": 0,
        "concurrency": 100,
        "methods": {"fib": method},
        "refused": {"": {"METHOD": 1}},
    }
    call = {"service": service, "method": text, "call_id": "6f1c9a", "caller": text, "age": 3.2, "left": 26.8}
    return {
        "ping": {**process, "services": [service]},
        "info": {**process, "control": "look", "services": [{"name": service, "version": text, "methods": [declared]}]},
        "stats": {"uptime": 10.0, "process": {"cpu": 1.2, "memory": None, "lag": 0.01}, "services": {service: numbers}},
        "calls": {"calls": [{**call, "kind": "call", "state": "running"}]},
        "health": {"healthy": True, "state": text, "checks": {"connection": True, "consuming": {service: True}}},
        "cancel": {"cancelled": 1},
        "drain": {"state": text},
        "resume": {"state": text},
        "concurrency": {"service": text, "concurrency": 8, "was": 100},
        "log-level": {"logger": text, "level": "DEBUG", "was": text},
    }


def nothing() -> None:
    """A method of a service that has queues."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """An embedded one of this module's own: nothing else is on it."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def warren(broker: Broker) -> Warren:
    """Runs ``warren`` on that broker."""

    async def run(*args: str, **env: str) -> Result:
        return await asyncio.to_thread(run_here, args, **{"WARREN_URL": broker.url, "COLUMNS": "80"} | env)

    return run


@pytest.fixture
async def calc(broker: Broker) -> AsyncIterator[list[Question]]:
    """A process of the service `calc` that says what `answers` has, and what it was asked."""
    async with fake_process(broker.url, ["calc"], answers("calc")) as asked:
        yield asked


@pytest.mark.parametrize("command", ["ls", "ping", "stats", "calls", "health", "graph", "queues", "dead"])
async def test_an_empty_system_is_told_what_to_do(warren: Warren, command: str) -> None:
    done = await warren(command)
    assert done.stdout == ""
    assert "start one with `warren serve" in done.stderr
    assert done.exit_code == (0 if command in ("ls", "queues", "dead") else 1)


@pytest.mark.parametrize("command", ["info", "ping", "stats", "calls", "health", "schema", "stubs"])
async def test_a_service_that_nobody_serves_is_told_with_the_nearest_name(
    warren: Warren, calc: list[Question], command: str
) -> None:
    done = await warren(command, "cacl")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "nobody who serves 'cacl'" in done.stderr
    assert "did you mean calc?" in done.stderr


COMMANDS = [
    "ls", "info calc", "info calc.fib", "ping calc", "stats calc", "calls calc", "health calc", "where 6f1c9a",
    "cancel 6f1c9a", "drain 0123456789ab", "resume 0123456789ab", "concurrency calc 8", "log-level debug", "graph",
    "graph --format mermaid",
    "graph --format dot", "graph --format svg", "graph --format json", "schema calc", "schema calc --asyncapi",
    "queues", "dead", "dead count", "top --count 1", "stats --watch --count 1",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_says_what_it_finds_within_80_columns(
    warren: Warren, calc: list[Question], command: str
) -> None:
    done = await warren(*command.split())
    assert (done.stderr, done.exit_code) == ("", 0)
    assert done.stdout.strip()
    if "--format" not in command and "schema" not in command:
        assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if "--format" not in name])
async def test_each_has_json_of_the_same(warren: Warren, calc: list[Question], command: str) -> None:
    done = await warren(*command.split(), "--json")
    assert (done.stderr, done.exit_code) == ("", 0)
    assert json.loads(done.stdout)


@pytest.mark.parametrize("command", [*COMMANDS, "stubs calc"])
async def test_nothing_that_peers_say_reaches_the_terminal(broker: Broker, warren: Warren, command: str) -> None:
    said = answers("calc", EVIL)
    async with fake_process(broker.url, ["calc"], said):
        done = await warren(*command.split(), COLUMNS="300")
        assert done.exit_code == 0
        assert not re.search("[\x1b\x07\u202e\x9b]", done.stdout + done.stderr)
        assert not any(line.startswith("forged") for line in done.stdout.splitlines())
        if "stubs" not in command and "--format" not in command:
            done = await warren(*command.split(), "--json")
            assert done.stdout.isascii() or done.stdout.replace("\n", "").isprintable()


async def test_ls_shows_each_service_with_its_numbers(broker: Broker, warren: Warren) -> None:
    unseen = Service("calc")
    unseen.method(nothing)
    async with (
        fake_process(broker.url, ["calc"], answers("calc")),
        fake_process(broker.url, ["calc"], answers("calc"), "ba9876543210"),
        fake_process(broker.url, ["mail"], {}, "aaaaaaaaaaaa"),
        serving(unseen, url=broker.url, control=None),
    ):
        done = await warren("ls")
        assert re.search(r"^calc +2 +2 +2,468 +5\.0 +6 +2\.0 ms +1\.5 s +0 +0$", done.stdout, re.M)
        assert re.search(r"^mail +1 +0 +0 +- +0 +- +- +- +-$", done.stdout, re.M)
        assert "1 process: this process does not know 'stats'" in done.stderr


async def test_an_answer_that_makes_no_sense_is_told_and_takes_no_other_along(broker: Broker, warren: Warren) -> None:
    odd = {**answers("calc"), "stats": {"services": 3}, "ping": {"services": "calc"}, "calls": {"calls": [{}]}}
    async with (
        fake_process(broker.url, ["calc"], odd),
        fake_process(broker.url, ["calc"], answers("calc"), "ba9876543210"),
    ):
        for command in ("ls", "stats", "ping", "calls"):
            done = await warren(command)
            assert (done.exit_code, "calc" in done.stdout or "ba98" in done.stdout) == (0, True), command
        assert "1 process: what it says to 'calls' makes no sense" in done.stderr


@pytest.mark.parametrize(("at_least", "code"), [("1", 0), ("2", 1)])
async def test_health_is_told_by_the_exit_code(warren: Warren, calc: list[Question], at_least: str, code: int) -> None:
    assert (await warren("health", "calc", "--at-least", at_least)).exit_code == code


async def test_one_process_that_is_not_healthy_is_one_too_many(broker: Broker, warren: Warren) -> None:
    sick = {"healthy": False, "state": "serving", "checks": {"connection": True, "consuming": {"calc": False}}}
    async with (
        fake_process(broker.url, ["calc"], answers("calc")),
        fake_process(broker.url, ["calc"], {"health": sick}, "ba9876543210"),
    ):
        done = await warren("health", "calc")
        assert done.exit_code == 1
        assert "does not consume calc" in done.stdout


async def test_what_is_not_allowed_ends_with_5_and_says_why(broker: Broker, warren: Warren) -> None:
    no = make_error(Code.UNIMPLEMENTED, "METHOD", "this server only lets tools look: say Server(control='full')")
    later = make_error(Code.INVALID_ARGUMENT, "VALIDATION", "this process is starting: ask again while it serves")
    async with fake_process(broker.url, ["calc"], {"drain": no, "cancel": no, "resume": later}):
        for command, code, said in (
            ("drain 0123456789ab", 5, "only lets tools look"),
            ("cancel 6f1c9a", 5, "only lets tools look"),
            ("resume 0123456789ab", 1, "ask again while it serves"),
        ):
            done = await warren(*command.split(), "--wait", "1")
            assert (done.exit_code, said in done.stderr) == (code, True), command


async def test_cancel_names_the_call_and_nothing_else(warren: Warren, calc: list[Question]) -> None:
    done = await warren("cancel", "6f1c9a")
    assert done.stdout == "6f1c9a was cancelled at 0123456789ab\n"
    assert [(question.verb, question.body) for question in calc] == [("cancel", {"call_id": "6f1c9a"})]


async def test_a_drain_of_several_is_told_for_each(warren: Warren, calc: list[Question]) -> None:
    done = await warren("drain", "0123456789ab", "nobody")
    assert (done.stdout, done.exit_code) == ("0123456789ab: text\n", 1)
    assert "nobody: no such process has answered" in done.stderr


async def test_concurrency_is_told_to_who_serves_or_to_one_process(warren: Warren, calc: list[Question]) -> None:
    done = await warren("concurrency", "calc", "8")
    assert (done.stdout, done.exit_code) == ("0123456789ab: calc: 8 at a time, was 100\n", 0)
    done = await warren("concurrency", "calc", "8", "--instance", "0123456789ab", "--instance", "nobody", "--json")
    said = {"service": "text", "concurrency": 8, "was": 100}
    assert (json.loads(done.stdout), done.exit_code) == ({"0123456789ab": said}, 1)
    assert "nobody: no such process has answered" in done.stderr
    bodies = [question.body for question in calc if question.verb == "concurrency"]
    assert bodies == [{"service": "calc", "concurrency": 8}] * 2


async def test_a_level_may_be_written_small_and_is_told_to_all_processes(warren: Warren, calc: list[Question]) -> None:
    done = await warren("log-level", "debug", "--logger", "shop")
    assert (done.stdout, done.exit_code) == ("0123456789ab: text from DEBUG on, was text\n", 0)
    assert [q.body for q in calc if q.verb == "log-level"] == [{"level": "DEBUG", "logger": "shop"}]


async def test_one_process_that_cannot_do_it_is_told_beside_those_that_can(broker: Broker, warren: Warren) -> None:
    no = make_error(Code.UNIMPLEMENTED, "METHOD", "this server only lets tools look")
    odd = make_error(Code.INVALID_ARGUMENT, "VALIDATION", "nobody logs as 'shop' here")
    for refusal, code in ((no, 5), (odd, 1)):
        async with (
            fake_process(broker.url, ["calc"], answers("calc")),
            fake_process(broker.url, ["calc"], {"log-level": refusal}, "ba9876543210"),
        ):
            done = await warren("log-level", "info", "--service", "calc")
            assert (done.stdout.count("\n"), done.exit_code) == (1, code)
            assert f"1 process: {refusal.message}" in done.stderr


async def test_info_of_a_method_that_is_not_there_names_those_that_are(warren: Warren, calc: list[Question]) -> None:
    done = await warren("info", "calc.fob")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "'calc' has no method 'fob'; use one of: fib" in done.stderr


async def test_info_of_a_method_that_yields_shows_the_schema_of_each_item(broker: Broker, warren: Warren) -> None:
    said = answers("calc")
    said["info"]["services"][0]["methods"][0] |= {"streams": True, "result": {"type": "string"}}
    async with fake_process(broker.url, ["calc"], said):
        done = await warren("info", "calc.fib")
    assert done.stdout.endswith('each item\n  {\n    "type": "string"\n  }\n')


async def test_info_of_a_method_that_takes_items_shows_the_schema_of_each(broker: Broker, warren: Warren) -> None:
    said = answers("calc")
    said["info"]["services"][0]["methods"][0] |= {"takes": True, "taken": {"type": "string"}}
    async with fake_process(broker.url, ["calc"], said):
        done = await warren("info", "calc.fib")
    assert 'each item that it takes\n  {\n    "type": "string"\n  }\n' in done.stdout


async def test_two_versions_at_once_are_told(broker: Broker, warren: Warren) -> None:
    old, new = answers("calc"), answers("calc", "newer")
    new["info"]["started"] = 10.0
    async with fake_process(broker.url, ["calc"], old), fake_process(broker.url, ["calc"], new, "ba9876543210"):
        done = await warren("info", "calc")
        assert "version newer" in done.stdout
        assert "1 of 2 say something else" in done.stderr


async def test_watching_counts_what_came_between_two_looks(broker: Broker, warren: Warren) -> None:
    said = answers("calc")
    async with fake_process(broker.url, ["calc"], said):
        done = await warren("stats", "calc", "--watch", "--count", "3", "--interval", "0.5", "--json")
    first, *later = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["seconds"], first["services"]["calc"]["methods"]["fib"]["ended"]) == (None, 1234)
    assert [look["services"]["calc"]["methods"]["fib"]["ended"] for look in later] == [0, 0]
    assert all(look["seconds"] > 0 for look in later)


ASKED = {
    "ls": "ping stats", "info calc": "info", "ping": "ping", "stats calc": "stats ping", "calls": "calls ping",
    "health calc": "health ping", "where 6f1c9a": "calls ping", "cancel 6f1c9a": "cancel", "graph": "stats ping",
    "drain 0123456789ab": "drain", "concurrency calc 8": "concurrency ping", "log-level info": "log-level ping",
    "schema calc": "info", "stubs calc": "info", "queues": "ping", "dead": "ping", "top --count 1": "stats ping",
}  # fmt: skip


@pytest.mark.parametrize("command", ASKED)
async def test_each_command_asks_each_thing_once(warren: Warren, calc: list[Question], command: str) -> None:
    """However many processes there are: what a command costs is one question, or two at a time, and one wait."""
    await warren(*command.split())
    assert sorted(question.verb for question in calc) == sorted(ASKED[command].split())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ls", "stats", "calls", "health", "graph", "where 6f1c9a", "log-level info"])
async def test_each_command_waits_for_answers_once(warren: Warren, calc: list[Question], command: str) -> None:
    began = time.monotonic()
    await warren(*command.split(), "--wait", "3")
    assert 3 <= time.monotonic() - began < 6, "twice would be 6 s"


@pytest.mark.parametrize("command", ["drain", "resume", "concurrency calc 8 --instance", "log-level info --instance"])
async def test_a_process_that_is_named_is_not_waited_for_once_it_has_answered(
    warren: Warren, calc: list[Question], command: str
) -> None:
    began = time.monotonic()
    done = await warren(*command.split(), "0123456789ab", "--wait", "60")
    assert (done.exit_code, time.monotonic() - began < 30) == (0, True)


async def test_who_misses_a_look_is_counted_from_the_last_one_on(broker: Broker, warren: Warren) -> None:
    said = answers("calc")
    watching = ("stats", "calc", "--watch", "--count", "3", "--interval", "2", "--json")
    async with fake_process(broker.url, ["calc"], said) as always:
        async with fake_process(broker.url, ["calc"], said, "ba9876543210") as often:
            looking = asyncio.ensure_future(warren(*watching))
            await until_asked(always, "stats", 1)
            await until_asked(often, "stats", 1)
        await until_asked(always, "stats", 2)
        async with fake_process(broker.url, ["calc"], said, "ba9876543210"):
            looks = [json.loads(line)["services"]["calc"] for line in (await looking).stdout.splitlines()]
    assert [look["instances"] for look in looks] == [2, 1, 2]
    assert [look["methods"]["fib"]["ended"] for look in looks] == [2468, 0, 0]


async def until_asked(asked: list[Question], verb: str, times: int) -> None:
    async with asyncio.timeout(60):
        while sum(question.verb == verb for question in asked) < times:
            await asyncio.sleep(0.01)


async def test_ids_are_whole_on_the_narrowest_terminal(broker: Broker, warren: Warren) -> None:
    said, id = answers("a-service-of-a-long-name", "a-caller-of-a-long-name"), "66b1f0c27a51d0b6a1f3c9e2"
    said["calls"]["calls"][0]["call_id"] = id
    async with fake_process(broker.url, ["a-service-of-a-long-name"], said):
        done = await warren("calls", COLUMNS="40")
    assert {id, "0123456789ab"} <= set(done.stdout.split())


async def test_without_a_broker_all_end_with_3(warren: Warren) -> None:
    for command in ("ls", "graph", "where x", "queues", "dead"):
        done = await warren(*command.split(), WARREN_URL="amqp://127.0.0.1:1")
        assert (done.stdout, done.exit_code) == ("", 3), command


@pytest.mark.parametrize(
    "command",
    ["ping " + "x" * 300, "drain " + "x" * 300, "top --sort colour", "graph --format png", "ls --wait -1", "ls x",
     "concurrency calc 0", "concurrency calc 8 --instance " + "x" * 300, "log-level loud", "concurrency calc",
     "log-level debug --service calc --instance 0123456789ab", "queues --management ftp://x", "completion tcsh"],
)  # fmt: skip
async def test_what_makes_no_sense_ends_with_2(warren: Warren, command: str) -> None:
    done = await warren(*command.split())
    assert (done.stdout, done.exit_code) == ("", 2), done.stderr


async def test_a_graph_of_code_asks_nobody(warren: Warren, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "front.py").write_text("from warren import Client\nclient.call('calc.fib')\nclient.call(x)\n")
    monkeypatch.chdir(tmp_path)
    done = await warren("graph", "front", WARREN_URL="amqp://127.0.0.1:1")
    assert (done.stdout, done.exit_code) == ("front\n  -> calc.fib\n", 0)
    assert re.match("1 call is left out.*front.py:3", done.stderr)
    done = await warren("graph", "nothing")
    assert (done.exit_code, "there is no module 'nothing'" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", sorted({name.split()[0] for name in COMMANDS if "dead" not in name} | {"stubs"}))
def test_help_has_examples_and_exit_codes_in_80_columns(command: str) -> None:
    done = run_here([command, "--help"], COLUMNS="80")
    assert re.search(rf"^  warren {command}\b", done.stdout.partition("Examples:")[2], re.M)
    codes = done.stdout.partition("Exit codes:")[2]
    assert all(re.search(rf"^ +{code} +\w+", codes, re.M) for code in (0, 2, 3, 5, 7, 130))
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
