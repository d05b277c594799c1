"""Two versions of a service at once, on one queue, with callers of both: what may change, and what may not.

docs/contracts.md has the rules.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pydantic
import pytest
from msgspec import Struct

from tests.support.serving import serving
from warren import AsyncClient, CallError, Execution, InvalidArgument, MethodNotFound, Service

PATIENCE = 60.0


class StructOne(Struct):
    item: str


class StructTwo(Struct):
    item: str
    gift: bool = False


@dataclass
class DataOne:
    item: str


@dataclass
class DataTwo:
    item: str
    gift: bool = False


class DictOne(TypedDict):
    item: str


class DictTwo(TypedDict):
    item: str
    gift: NotRequired[bool]


class ModelOne(pydantic.BaseModel):
    item: str


class ModelTwo(pydantic.BaseModel):
    item: str
    gift: bool = False


class Strict(Struct, forbid_unknown_fields=True):
    item: str


class Needy(Struct):
    item: str
    gift: bool


class Versions:
    """The old and the new version of a service; `ran` counts which of them has run a method."""

    def __init__(self, name: str) -> None:
        self.ran: Counter[str] = Counter()
        self.old, self.new = Service(name), Service(name)

    def note(self, version: str) -> None:
        self.ran[version] += 1

    def both(self) -> bool:
        return self.ran["old"] > 0 and self.ran["new"] > 0

    def echo(self, old: Any, new: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """A method ``echo`` of one argument and a result, whose type has changed."""

        def echo_old(order: old) -> old:
            self.note("old")
            return order

        def echo_new(order: new) -> new:
            self.note("new")
            return order

        for function in (echo_old, echo_new):
            hint = old if function is echo_old else new
            function.__annotations__ = {"order": hint, "return": hint}
        return self.old.method(name="echo")(echo_old), self.new.method(name="echo")(echo_new)


@pytest.fixture
def versions(service_name: str) -> Versions:
    return Versions(service_name)


@pytest.fixture
async def at_once(url: str, versions: Versions) -> AsyncIterator[Callable[[], Any]]:
    """Serve both at once, when this is called."""
    servers = []

    async def serve() -> None:
        for service in (versions.old, versions.new):
            server = serving(service, url=url)
            servers.append(server)
            await server.__aenter__()

    yield serve
    for server in servers:
        await server.__aexit__(None, None, None)


async def until_both(versions: Versions, call: Callable[[], Any]) -> list[Any]:
    """Call until both versions have run a method, or refused it; what the calls ended in."""
    ends: list[Any] = []
    versions.ran.clear()
    async with asyncio.timeout(PATIENCE):
        while not versions.both() and len({type(end) for end in ends}) < 2:
            ends += await asyncio.gather(call(), return_exceptions=True)
    return ends


# --- what may change ----------------------------------------------------------------------------------------------

KINDS = {
    "struct": (StructOne, StructTwo),
    "dataclass": (DataOne, DataTwo),
    "typed dict": (DictOne, DictTwo),
    "pydantic": (ModelOne, ModelTwo),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_field_with_a_default_may_be_added_to_arguments_and_results(
    client: AsyncClient, versions: Versions, at_once: Callable[[], Any], kind: str, encoding: Any
) -> None:
    one, two = KINDS[kind]
    echo_old, echo_new = versions.echo(one, two)
    await at_once()
    client = client.options(encoding=encoding)
    assert await until_both(versions, lambda: client.call(echo_old, one(item="tea"))) == [one(item="tea")] * sum(
        versions.ran.values()
    )
    ends = await until_both(versions, lambda: client.call(echo_new, two(item="tea", gift=True)))
    kept, lost = two(item="tea", gift=True), two(item="tea")
    assert ends.count(kept) == versions.ran["new"]
    assert ends.count(lost) == versions.ran["old"]  # which knows of no gifts: it ignores what it does not know


async def test_an_argument_with_a_default_may_be_added_and_given_once_all_workers_know_it(
    client: AsyncClient, versions: Versions, at_once: Callable[[], Any]
) -> None:
    @versions.old.method(name="place")
    def old(item: str) -> str:
        versions.note("old")
        return item

    @versions.new.method(name="place")
    def new(item: str, count: int = 1) -> str:
        versions.note("new")
        return item * count

    await at_once()
    for function in (old, new):
        assert set(await until_both(versions, lambda function=function: client.call(function, "tea"))) == {"tea"}  # type: ignore[misc]
    ends = await until_both(versions, lambda: client.call(new, "tea", 2))
    refused = [end for end in ends if isinstance(end, InvalidArgument)]
    assert len(refused) == len(ends) - ends.count("teatea") > 0
    assert refused[0].execution is Execution.NOT_EXECUTED
    ends = await until_both(versions, lambda: client.call(new, "tea", count=2))
    assert any(isinstance(end, InvalidArgument) for end in ends)


async def test_a_method_may_be_added_and_called_once_all_workers_have_it(
    client: AsyncClient, versions: Versions, at_once: Callable[[], Any]
) -> None:
    versions.echo(int, int)

    @versions.new.method
    def cancel(item: str) -> bool:
        versions.note("new")
        return True

    await at_once()
    ends = await until_both(versions, lambda: client.call(cancel, "tea"))
    refused = [end for end in ends if isinstance(end, MethodNotFound)]
    assert len(refused) == len(ends) - ends.count(True) > 0
    assert refused[0].execution is Execution.NOT_EXECUTED


# --- what may not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "argument"),
    [
        pytest.param(Strict, StructTwo, StructTwo("tea"), id="new callers, of workers that forbid unknown fields"),
        pytest.param(Needy, StructOne, StructOne("tea"), id="callers that no longer send what old workers need"),
        pytest.param(str, int, 1, id="another type"),
    ],
)
async def test_what_does_not_fit_an_old_worker_is_refused_before_it_runs(
    client: AsyncClient, versions: Versions, at_once: Callable[[], Any], old: Any, new: Any, argument: Any
) -> None:
    _echo_old, echo_new = versions.echo(old, new)
    await at_once()
    ends = await until_both(versions, lambda: client.call(echo_new, argument))
    refused = [end for end in ends if isinstance(end, CallError)]
    assert {(end.code, end.execution) for end in refused} == {("INVALID_ARGUMENT", Execution.NOT_EXECUTED)}


async def test_a_result_that_does_not_fit_the_caller_is_told_when_the_handler_has_run(
    client: AsyncClient, versions: Versions, at_once: Callable[[], Any]
) -> None:
    @versions.old.method(name="get")
    def old() -> StructOne:
        versions.note("old")
        return StructOne("tea")

    @versions.new.method(name="get")
    def new() -> Needy:
        versions.note("new")
        return Needy("tea", True)

    await at_once()
    assert set(map(str, await until_both(versions, lambda: client.call(old)))) == {"StructOne(item='tea')"}
    ends = await until_both(versions, lambda: client.call(new))
    lost = [end for end in ends if isinstance(end, CallError)]
    assert {(end.reason, end.execution) for end in lost} == {("DECODE_REPLY", Execution.EXECUTED)}
