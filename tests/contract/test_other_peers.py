"""The control plane between versions and makes: what others say is borne, and what cannot be read is told.

The others are plain Pika and know docs/wire.md, or not even that.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pika
import pytest

from tests.cli.running import Result, run_here
from tests.support.plain_peer import Said, Says, ask, json_answer, plain_process, unimplemented
from tests.support.serving import serving
from warren import Code, Service
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.operate import asked, told
from warren.protocol.control import to_service

#: Seconds in which all that answer do.
PATIENCE = 1.0

Warren = Callable[..., Awaitable[Result]]


@pytest.fixture
def warren(url: str) -> Warren:
    async def run(*args: str) -> Result:
        return await asyncio.to_thread(run_here, [*args, "--wait", "1"], WARREN_URL=url, COLUMNS="200")

    return run


@pytest.fixture
async def ours(url: str, service_name: str) -> AsyncIterator[Service]:
    """A service that a process of this version serves."""
    made = Service(service_name)

    @made.method
    async def ping() -> str:
        """What it says of itself."""
        return "pong"

    async with serving(made, url=url):
        yield made


# --- others answer ------------------------------------------------------------------------------------------------


def old(name: str) -> Says:
    """A version that knows `ping` alone, says little, and something that nobody knows any more."""

    def says(verb: str, _body: bytes, _id: str) -> list[Said]:
        if verb != "ping":
            return [unimplemented(verb, "old-peer")]
        return [json_answer(instance="old-peer", services=[name], moon={"phase": [1, None]})]

    return says


COMMANDS = ["ls", "ping NAME", "info NAME", "stats NAME", "calls NAME", "health NAME", "graph", "schema NAME"]


@pytest.mark.parametrize("command", COMMANDS)
async def test_an_older_peer_is_shown_as_far_as_it_answers_and_takes_no_other_along(
    url: str, warren: Warren, ours: Service, command: str
) -> None:
    with plain_process(url, [ours.name], old(ours.name)) as verbs:
        done = await warren(*command.replace("NAME", ours.name).split())
    assert ours.name in done.stdout or "healthy" in done.stdout or "no call is running" in done.stderr
    assert set(verbs) <= {"ping", "info", "stats", "calls", "health"}
    if command.startswith("ping"):
        assert "old-peer" in done.stdout
    else:
        assert "1 process: no verb '" in done.stderr
    assert done.exit_code == (1 if command.startswith("health") else 0)


@pytest.mark.parametrize("command", ["drain OLD", "cancel 6f1c9a"])
async def test_a_verb_that_an_older_peer_does_not_know_is_told_in_its_words(
    url: str, warren: Warren, service_name: str, command: str
) -> None:
    with plain_process(url, [service_name], old(service_name)):
        done = await warren(*command.replace("OLD", "old-peer").split())
    assert (done.exit_code, "no verb '" in done.stderr) == (5, True), done


async def test_a_newer_peer_may_say_more(url: str, service_name: str) -> None:
    method = {"name": "fly", "altitude": {"most": 9000}, "delivery": "by-owl"}
    service = {"name": service_name, "methods": [method], "colour": "red"}
    said: dict[str, dict[str, Any]] = {
        "info": {"services": [service], "region": ["north"]},
        "stats": {"services": {service_name: {"methods": {"fly": {"ended": 3, "energy": 7}}, "tides": {}}}},
        "calls": {"calls": [{"service": service_name, "kind": "stream", "frames": 12}], "page": 2},
        "health": {"healthy": True, "checks": {"connection": True, "consuming": {service_name: True}, "moon": False}},
    }

    def says(verb: str, _body: bytes, _id: str) -> list[Said]:
        return [json_answer(instance="new-peer", **said[verb])]

    with plain_process(url, [service_name], says):
        async with Asking(make_settings(url)) as asking:
            kinds: dict[str, type[Any]] = {
                "info": told.Info,
                "stats": told.Stats,
                "calls": told.Calls,
                "health": told.Health,
            }
            for verb, kind in kinds.items():
                found: asked.Told[Any]
                found = await asked.ask(asking, verb, to_service(service_name), kind, patience=60, first=True)
                assert (list(found.said), found.complaints()) == (["new-peer"], [])


GARBAGE: dict[str, tuple[list[Said], str]] = {
    "no JSON": ([(b"\xff\x00hello", {})], "it is not a JSON object"),
    "no object": ([(b"[1, 2]", {})], "it is not a JSON object"),
    "nothing": ([(b"", {})], "it is not a JSON object"),
    "endless nesting": ([(b'{"a":' * 100_000, {})], "it is not a JSON object"),
    "nobody's": ([json_answer(services=["x"])], "does not say who speaks"),
    "a number's": ([json_answer(instance=7)], "does not say who speaks"),
    "a giant's": ([json_answer(instance="x" * 70_000)], "does not say who speaks"),
    "a wrong shape": ([json_answer(instance="odd", services={"a": 1})], "Expected `array`"),
    "a huge number": ([json_answer(instance="odd", pid=10**3000)], "makes no sense"),
    "a time beyond all": ([json_answer(instance="odd", started=1e300)], "makes no sense"),
    "two answers": ([json_answer(instance="odd"), json_answer(instance="odd", pid=2)], "it is not the first answer"),
    "a refusal without words": (
        [(b'{"instance": "odd"}', {"type": "error", "headers": {"rpc-status": 7}})],
        "does not say why",
    ),
    "a refusal in too many words": (
        [(json.dumps({"instance": "odd", "detail": "x" * 100_000}).encode(), {"headers": {"rpc-status": "NONE"}})],
        "1 process: xxx",
    ),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_what_cannot_be_read_is_told_and_takes_no_other_along(url: str, ours: Service, kind: str) -> None:
    answers, said = GARBAGE[kind]
    with plain_process(url, [ours.name], lambda _verb, _body, _id: answers):
        async with asyncio.timeout(60), Asking(make_settings(url)) as asking:
            while True:
                found = await asked.ask(asking, "ping", to_service(ours.name), told.Process, patience=0.3)
                if found.complaints() and found.said.keys() - {"odd"}:
                    break
    (complaint,) = found.complaints()
    assert said in complaint
    assert len(complaint) < 600


async def test_what_cannot_be_read_is_told_on_the_terminal(url: str, warren: Warren, ours: Service) -> None:
    answers = [said for kind in ("no JSON", "nobody's", "two answers") for said in GARBAGE[kind][0]]
    with plain_process(url, [ours.name], lambda _verb, _body, _id: answers):
        done = await warren("ping", ours.name)
    assert (done.exit_code, "serving" in done.stdout, "odd" in done.stdout) == (0, True, True)
    assert [line.partition("sense: ")[2][:20] for line in done.stderr.splitlines()] == [
        "it is not a JSON obj",
        "it does not say who ",
        "it is not the first ",
    ]


STRANGE: dict[str, dict[str, Any]] = {
    "another's id": {"correlation_id": "another's"},
    "no id": {"correlation_id": None},
    "an id of no text": {"correlation_id": "\x00\u202e"},
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_an_answer_to_no_question_of_ours_is_ignored(url: str, ours: Service, kind: str) -> None:
    body, _ = json_answer(instance="odd", services=[ours.name])
    with plain_process(url, [ours.name], lambda _verb, _body, _id: [(body, STRANGE[kind])]) as verbs:
        async with Asking(make_settings(url)) as asking:
            found = await asked.ask(asking, "ping", to_service(ours.name), told.Process, patience=PATIENCE)
    assert (len(found.said), "odd" in found.said, found.complaints(), verbs) == (1, False, [], ["ping"])


async def test_a_late_answer_is_none_to_the_next_question(url: str, ours: Service) -> None:
    ids: list[str] = []

    def late(_verb: str, _body: bytes, id: str) -> list[Said]:
        ids.append(id)
        return [(json_answer(instance="late")[0], {"correlation_id": before}) for before in ids[:-1]]

    with plain_process(url, [ours.name], late):
        async with Asking(make_settings(url)) as asking:
            for _ in range(3):
                found = await asked.ask(asking, "ping", to_service(ours.name), told.Process, patience=PATIENCE)
                assert (len(found.said), "late" in found.said, found.complaints()) == (1, False, [])
    assert len(set(ids)) == 3


# --- others ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["dance", "PING", "", "stats\x00", "x" * 255])
async def test_a_verb_that_is_not_known_here_is_unimplemented_with_those_that_are(
    raw: Any, ours: Service, verb: str
) -> None:
    (heard,) = await asyncio.to_thread(ask, raw, f"service:{ours.name}", verb, b'{"steps": 3}')
    assert heard.properties.type == "error"
    assert heard.properties.headers["rpc-status"] == Code.UNIMPLEMENTED.value
    assert "it knows: calls, cancel" in heard.body["detail"]
    assert len(heard.body["instance"]) == 12


@pytest.mark.parametrize("verb", ["ping", "info", "stats", "calls", "health"])
@pytest.mark.parametrize(
    ("body", "more"),
    [
        (b"", {}),
        (b'{"since": "yesterday", "moon": [{}]}', {}),
        (b"{}", {"content_type": "text/plain", "headers": {"x-new": {"a": [1]}}, "message_id": "m", "priority": 9}),
    ],
)
async def test_a_question_may_leave_out_all_and_bring_what_is_unknown(
    raw: Any, ours: Service, verb: str, body: bytes, more: dict[str, Any]
) -> None:
    (heard,) = await asyncio.to_thread(ask, raw, f"service:{ours.name}", verb, body, **more)
    assert heard.properties.type == verb
    assert "rpc-status" not in (heard.properties.headers or {})


@pytest.mark.parametrize(
    "body", [b"{}", b'{"calls": {}}', b'{"reply_to": "q"}', b'{"calls": {"a": null}, "reply_to": "q"}']
)
async def test_a_cancel_that_leaves_out_what_it_needs_is_told_so(raw: Any, ours: Service, body: bytes) -> None:
    (heard,) = await asyncio.to_thread(ask, raw, f"service:{ours.name}", "cancel", body)
    assert heard.properties.headers["rpc-status"] == Code.INVALID_ARGUMENT.value
    assert "its arguments do not fit" in heard.body["detail"]


async def test_a_cancel_that_brings_what_is_unknown_is_done(url: str, raw: Any, service_name: str) -> None:
    made, begun, cancelled = Service(service_name), asyncio.Event(), asyncio.Event()

    @made.method(default=True)
    async def hang(text: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
            return text
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(made, url=url):
        call = pika.BasicProperties(correlation_id="one", reply_to="nowhere")
        raw.basic_publish("", service_name, b"null", call)
        await begun.wait()
        body = b'{"calls": {"one": 9000, "another": 1}, "reply_to": "nowhere", "because": "of the moon"}'
        (heard,) = await asyncio.to_thread(ask, raw, f"service:{service_name}", "cancel", body)
        assert heard.body["cancelled"] == 1
        await cancelled.wait()


async def test_a_question_without_a_verb_is_answered(raw: Any, ours: Service) -> None:
    (heard,) = await asyncio.to_thread(ask, raw, f"service:{ours.name}", None, b"{}")
    assert heard.properties.headers["rpc-status"] == Code.UNIMPLEMENTED.value
