"""Options that are written once: how they show, and what a wrong name is told."""

from __future__ import annotations

import inspect
import pydoc
from functools import partial
from typing import Any, TypedDict, Unpack

import pytest

from warren import AsyncClient, Client, ConnectionOptions, Server, Service
from warren.checks import CALL_OPTIONS, place_of
from warren.connection.settings import make_settings
from warren.keywords import naming, refuse_unknown

TAKERS = [Client, AsyncClient, Server, Service.run, Service.serve]


class Colours(TypedDict, total=False):
    red: int | None
    green: str | None


@naming(Colours)
def paint(wall: str, *, coats: int = 1, **colours: Unpack[Colours]) -> None:
    refuse_unknown("paint", paint, colours)


def test_a_function_shows_its_own_parameters_and_then_the_options() -> None:
    shown = "(wall: 'str', *, coats: 'int' = 1, red: 'int | None' = None, green: 'str | None' = None) -> 'None'"
    assert str(inspect.signature(paint)) == shown


def test_an_unknown_name_is_told_the_nearest_one() -> None:
    with pytest.raises(TypeError, match=r"^paint\(\) has no option 'gren': did you mean 'green'\?$"):
        paint("north", gren="x")  # type: ignore[call-arg]


def test_the_nearest_one_may_be_a_parameter_of_the_functions_own() -> None:
    with pytest.raises(TypeError, match="did you mean 'coats'"):
        paint("north", coat=2)  # type: ignore[call-arg]


def test_a_name_like_no_other_is_told_all() -> None:
    with pytest.raises(TypeError, match="has no option 'xyz': known are wall, coats, red, green"):
        paint("north", xyz=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("taker", TAKERS)
def test_whoever_connects_shows_every_option_of_the_connection(taker: Any) -> None:
    shown = inspect.signature(taker).parameters
    assert ConnectionOptions.__annotations__.keys() <= shown.keys()
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())


@pytest.mark.parametrize("taker", [Client, AsyncClient, Server])
def test_help_shows_them_too_and_says_where_they_are_explained(taker: Any) -> None:
    text = pydoc.plain(pydoc.render_doc(taker))
    assert "liveness_timeout: float | None = None" in text.replace("'", "")  # quoted up to Python 3.13
    assert "see `ConnectionOptions`" in text


def test_every_option_of_the_connection_is_explained_where_it_is_written() -> None:
    text = inspect.getdoc(ConnectionOptions) or ""
    assert [name for name in ConnectionOptions.__annotations__ if name not in text] == []


@pytest.mark.parametrize(
    ("name", "near"), [("timeuot", "timeout"), ("hearbeat", "heartbeat"), ("max_inflight", "max_in_flight")]
)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_client_refuses_an_unknown_option(client: Any, name: str, near: str) -> None:
    with pytest.raises(TypeError, match=rf"^{client.__name__}\(\) has no option '{name}': did you mean '{near}'\?$"):
        client(**{name: 1})


OF_A_CALL = r"client\.options\({}=…\)\.call\(…\)"
OF_A_BATCH = r"client\.map\(…, {}=…\)"
OF_A_METHOD = r"@service\.method\({}=…\)"
OF_A_CLIENT = r"Client\(…, {}=…\)"
BY_NAME = r"client\.call\('service\.method', …, {}=…\)"


def map_(client: Any, **given: Any) -> Any:
    return client.map("calc.fib", [1], **given)


def bare(client: Any, **given: Any) -> Any:
    return client.call_bare("rpc_queue", b"30", **given)


@pytest.mark.parametrize(
    ("taker", "take", "name", "place"),
    [
        ("Client", Client, "on_progress", OF_A_CALL),
        ("AsyncClient", AsyncClient, "fail_fast", OF_A_CALL),
        ("Client", Client, "in_flight", OF_A_BATCH),
        ("Client", Client, "returns", BY_NAME),
        ("Client", Client, "delivery", OF_A_METHOD),
        ("options", Client().options, "progress", OF_A_BATCH),
        ("options", AsyncClient().options, "ordered", OF_A_BATCH),
        ("options", Client().options, "returns", BY_NAME),
        ("options", Client().options, "errors", r"client\.map\(…, {}='return'\), Client\(…, {}=\[…\]\)"),
        ("options", Client().options, "max_in_flight", OF_A_CLIENT),
        ("options", Client().options, "heartbeat", OF_A_CLIENT),
        ("options", Client().options, "delivery", OF_A_METHOD),
        ("map", partial(map_, Client()), "timeout", OF_A_CALL),
        ("map", partial(map_, AsyncClient()), "on_progress", OF_A_CALL),
        ("call_bare", partial(bare, Client()), "timeout", OF_A_CALL),
        ("call_bare", partial(bare, AsyncClient()), "fail_fast", OF_A_CALL),
        ("Server", partial(Server, Service("calc")), "timeout", OF_A_CALL),
        ("Service", partial(Service, "calc"), "delivery", OF_A_METHOD),
        ("method", Service("calc").method, "timeout", OF_A_CALL),
        ("stub", Service("calc").stub, "drain_timeout", r"Server\(…, {}=…\)"),
    ],
)
async def test_an_option_in_the_wrong_place_is_shown_its_own(taker: str, take: Any, name: str, place: str) -> None:
    words = place.replace("{}", name)
    with pytest.raises(TypeError, match=rf"^{taker}\(\) has no option '{name}': say {words}"):
        await take(**{name: 1})


def test_what_has_a_place_and_is_near_another_name_may_have_been_meant_as_that() -> None:
    with pytest.raises(TypeError, match=r"progress=…\); or did you mean 'on_progress'\?$"):
        Client().options(progress=print)  # type: ignore[call-arg]


def test_what_takes_no_options_says_so() -> None:
    with pytest.raises(TypeError, match=r"^call_bare\(\) has no option 'xyz': it takes none$"):
        Client().call_bare("rpc_queue", b"30", xyz=1)  # type: ignore[call-arg]


async def test_a_wrong_value_of_a_right_name_is_told_as_before() -> None:
    with pytest.raises(TypeError, match="is not a number of seconds"):
        Client().options(timeout="2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not the name of a queue"):
        await AsyncClient().call_bare(7)  # type: ignore[arg-type]


def test_each_option_has_the_place_that_takes_it() -> None:
    """The places are written down, and not read from signatures, as importing all of them for an error would be odd."""
    takers: list[tuple[str, Any]] = [
        ("Client", Client),
        ("Server", Server),
        ("Service", Service),
        ("@service.method", Service.method),
        ("client.map", Client.map),
        ("client.options", Client.options),
    ]
    without = {
        "self",
        "services",
        "target",
        "items",
        "returns",
        "function",
        "name",
        "url",
        "default",
        "description",
        "version",
    }
    for place, taker in takers:
        for name in inspect.signature(taker).parameters.keys() - without:
            if not (taker is not Client.options and name in CALL_OPTIONS):
                assert f"{place}(" in place_of(name), name


@pytest.mark.parametrize("name", ["host", "port", "uri"])
@pytest.mark.parametrize("make", [Client, AsyncClient, partial(Server, Service("calc"))])
def test_what_the_url_says_is_no_option_and_not_taken_for_another(make: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"has no option '{name}': say url='amqp://user:password@host:5672/vhost'$"):
        make(**{name: "localhost"})


@pytest.mark.parametrize(("name", "near"), [("drain_timout", "drain_timeout"), ("user_name", "username")])
def test_a_server_refuses_an_unknown_option(name: str, near: str) -> None:
    with pytest.raises(TypeError, match=rf"^Server\(\) has no option '{name}': did you mean '{near}'\?$"):
        Server(Service("calc"), **{name: 1})  # type: ignore[arg-type]


def test_what_is_told_of_a_connection_cannot_be_said_by_another_name() -> None:
    with pytest.raises(TypeError, match="no option 'hosts'"):
        Client(hosts=())  # type: ignore[call-arg]


def test_a_client_of_ones_own_may_have_parameters_of_its_own() -> None:
    class Shop(Client):
        def __init__(self, region: str) -> None:
            super().__init__(f"amqp://{region}.example", heartbeat=5)

    assert repr(Shop("eu")._shared._settings) == "amqp://guest@eu.example:5672/"


@pytest.mark.parametrize("wrong", [True, "", "/etc/ssl"])
def test_what_is_no_tls_context_is_refused_where_it_is_given(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"is not an ssl\.SSLContext: say for example"):
        make_settings("amqp://localhost", ssl=wrong)
