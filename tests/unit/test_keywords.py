"""Options that are written once: how they show, and what a wrong name is told."""

from __future__ import annotations

import inspect
import pydoc
from functools import partial
from typing import Any, TypedDict, Unpack

import pytest

from warren import AsyncClient, Client, ConnectionOptions, Server, Service
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


@pytest.mark.parametrize("name", ["on_progress", "fail_fast"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_an_option_of_calls_is_shown_its_place(client: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{client.__name__}\(\) has no option '{name}': say \.options\({name}=…\)"):
        client(**{name: True})


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
