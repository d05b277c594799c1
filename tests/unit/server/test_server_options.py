"""The options of a server, refused where they are given. Serving is in tests/contract."""

from __future__ import annotations

import os
from typing import Any

import pytest

from warren import Server, Service


@pytest.fixture
def service() -> Service:
    service = Service("calc")

    @service.method
    def double(n: int) -> int:
        return 2 * n

    return service


@pytest.mark.parametrize("value", ["3", b"3", True, None, []])
def test_a_drain_timeout_is_a_number(service: Service, value: Any) -> None:
    with pytest.raises(TypeError, match=r"drain_timeout=.* is not a number of seconds"):
        Server(service, drain_timeout=value)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**30])
def test_a_drain_timeout_that_makes_no_sense_is_refused(service: Service, value: float) -> None:
    with pytest.raises(ValueError, match=r"drain_timeout=.* must be 0 or more"):
        Server(service, drain_timeout=value)


def test_a_server_may_drain_in_no_time(service: Service) -> None:
    Server(service, drain_timeout=0)


@pytest.mark.parametrize("option", ["concurrency", "heartbeat"])
@pytest.mark.parametrize("value", ["3", 2.5, float("nan"), True])
def test_a_count_is_a_whole_number(service: Service, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}=.* is not a whole number"):
        Server(service, **{option: value})


@pytest.mark.parametrize("option", ["liveness_timeout", "connect_timeout"])
@pytest.mark.parametrize("value", ["3", True, b"3"])
def test_a_time_is_a_number(service: Service, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}=.* is not a number of seconds"):
        Server(service, **{option: value})


@pytest.mark.parametrize("option", ["name", "username", "vhost"])
@pytest.mark.parametrize("value", [3, b"x", []])
def test_a_name_is_a_text(service: Service, option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}=.* must be a str"):
        Server(service, **{option: value})


def test_a_name_that_cannot_be_sent_is_refused(service: Service) -> None:
    with pytest.raises(ValueError, match="characters that UTF-8 cannot carry"):
        Server(service, name="\udcff")


@pytest.mark.parametrize("url", [3, b"amqp://localhost", ["amqp://localhost", 3]])
def test_a_url_is_a_text(service: Service, url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a str or a list of them"):
        Server(service, url=url)


@pytest.mark.parametrize("other", ["module:service", [], Service])
def test_what_is_no_service_is_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="is not a Service"):
        Server(other)


@pytest.mark.parametrize("names", [[f"service-{n}" for n in range(100)], ["a" * 200, "b" * 200]], ids=["many", "long"])
def test_a_server_needs_no_name_however_long_those_of_its_services_are(names: list[str]) -> None:
    services = [Service(name) for name in names]
    for service in services:
        service.method(name="hello")(lambda: None)
    name = Server(*services)._settings.name
    assert name is not None
    assert name.startswith(names[0][:100])
    assert f"... worker, pid {os.getpid()}" in name
