"""AMQP URLs and the options beside them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import pytest
from tests.support.refusals import everything_said_about

from warren.connection.settings import DEFAULT_CONNECT_TIMEOUT, DEFAULT_HEARTBEAT, Settings, make_settings

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize("url", [None, "amqp://", "amqp://localhost", "amqp://localhost/", "AMQP://LOCALHOST"])
def test_the_shortest_urls_mean_the_defaults(url: str | None) -> None:
    assert make_settings(url) == Settings()


@pytest.mark.parametrize(
    ("url", "vhost"),
    [
        ("amqp://h", "/"),
        ("amqp://h/", "/"),
        ("amqp://h/%2F", "/"),
        ("amqp://h/%2f", "/"),
        ("amqp://h//", "/"),
        ("amqp://h/shop", "shop"),
        ("amqp://h/a%2Fb", "a/b"),
        ("amqp://h/%2Fa", "/a"),
        ("amqp://h/caf%C3%A9", "café"),
    ],
)
def test_the_path_names_the_vhost(url: str, vhost: str) -> None:
    assert make_settings(url).vhost == vhost


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("amqp://h", ("guest", "guest")),
        ("amqp://bob@h", ("bob", "")),
        ("amqp://bob:@h", ("bob", "")),
        ("amqp://bob:pw@h", ("bob", "pw")),
        ("amqp://b%40b:p%3A%2F%25@h", ("b@b", "p:/%")),
        ("amqp://bob:a:b@h", ("bob", "a:b")),
    ],
)
def test_the_url_names_user_and_password(url: str, credentials: tuple[str, str]) -> None:
    settings = make_settings(url)
    assert (settings.username, settings.password) == credentials


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("amqp://h", [("h", 5672)]),
        ("amqp://h:1", [("h", 1)]),
        ("amqps://h", [("h", 5671)]),
        ("amqp://10.0.0.1:7", [("10.0.0.1", 7)]),
        ("amqp://[::1]", [("::1", 5672)]),
        ("amqp://[::1]:7", [("::1", 7)]),
        ("amqp://bob:pw@[fe80::1]:7/v", [("fe80::1", 7)]),
        ("amqp://a,b:7,c", [("a", 5672), ("b", 7), ("c", 5672)]),
        ("amqp://bob:pw@a,b/v", [("a", 5672), ("b", 5672)]),
        (["amqp://a", "amqp://b:7"], [("a", 5672), ("b", 7)]),
        (("amqp://a,b", "amqp://c"), [("a", 5672), ("b", 5672), ("c", 5672)]),
    ],
)
def test_the_url_names_one_or_several_hosts(url: str | Sequence[str], hosts: list[tuple[str, int]]) -> None:
    assert make_settings(url).hosts == tuple(hosts)


def test_options_may_stand_in_the_query() -> None:
    settings = make_settings("amqp://h?heartbeat=5&connect_timeout=2.5&name=web%201")
    assert (settings.heartbeat, settings.connect_timeout, settings.name) == (5, 2.5, "web 1")


def test_without_options_there_are_defaults() -> None:
    settings = make_settings("amqp://h")
    assert (settings.heartbeat, settings.connect_timeout, settings.name) == (
        DEFAULT_HEARTBEAT,
        DEFAULT_CONNECT_TIMEOUT,
        None,
    )


def test_arguments_override_the_url() -> None:
    settings = make_settings(
        "amqp://bob:pw@h/v?heartbeat=5&name=a",
        username="ann",
        password="other",
        vhost="w",
        heartbeat=0,
        connect_timeout=1,
        name="b",
    )
    assert settings == Settings(
        hosts=(("h", 5672),),
        vhost="w",
        username="ann",
        password="other",
        heartbeat=0,
        connect_timeout=1,
        name="b",
    )


def test_amqps_brings_a_context_that_verifies() -> None:
    context = make_settings("amqps://h").ssl
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_amqp_is_not_encrypted() -> None:
    assert make_settings("amqp://h").ssl is None


def test_a_given_context_is_used_and_encrypts_amqp_too() -> None:
    context = ssl.create_default_context()
    settings = make_settings("amqp://h", ssl=context)
    assert (settings.ssl, settings.hosts) == (context, (("h", 5671),))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://h/a/b", "must be written %2F: the vhost a/b is amqp://localhost/a%2Fb"),
        ("amqp://h/a/", "must be written %2F"),
        ("amqp://h//a", "must be written %2F"),
        ("", "this is not an AMQP URL, it has no scheme; say amqp://user:password@host:5672/vhost"),
        ("foo", "this is not an AMQP URL, it has no scheme; say amqp://user:password@host:5672/vhost"),
        ("localhost", "is not an AMQP URL"),
        ("localhost:5672", "is not an AMQP URL"),
        ("http://h", "is not an AMQP URL"),
        ("amqp://h:port", "a port must be a number from 1 to 65535"),
        ("amqp://h:99999", "a port must be a number from 1 to 65535"),
        ("amqp://h:-1", "a port must be a number from 1 to 65535"),
        ("amqp://a:1,b:x", "a port must be a number from 1 to 65535"),
        ("amqp://[::1", "the URL cannot be read"),
        (
            "amqp://h?hartbeat=5",
            "unknown option 'hartbeat': did you mean 'heartbeat'\\?$",
        ),
        ("amqp://h?heartbeat", "heartbeat='' is not a number"),
        ("amqp://h?heartbeat=5s", "heartbeat='5s' is not a number"),
        ("amqp://h?connect_timeout=soon", "connect_timeout='soon' is not a number"),
        ("amqp://h?heartbeat=-1", "at least 0"),
        ("amqp://h?heartbeat=65536", "at most 65,535"),
        ("amqp://h?liveness_timeout=0.5", "must be from 1 to 86,400 seconds"),
        ("amqp://h?liveness_timeout=100000", "must be from 1 to 86,400 seconds"),
        ("amqp://h?connect_timeout=0", "more than 0"),
        ("amqp://h?connect_timeout=-1", "more than 0"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_settings(url)


@pytest.mark.parametrize("url", ["amqp://h:0", "amqp://h?connect_timeout=nan"])
def test_numbers_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        make_settings(url)


def test_an_empty_list_of_urls_is_refused() -> None:
    with pytest.raises(ValueError, match="no URL given"):
        make_settings([])


@pytest.mark.parametrize("second", ["amqps://h", "amqp://ann:pw@h", "amqp://h/other", "amqp://h?heartbeat=7"])
def test_several_urls_that_differ_in_more_than_the_host_are_refused(second: str) -> None:
    with pytest.raises(ValueError):
        make_settings(["amqp://bob:pw@h/v", second])


def test_a_name_that_is_too_long_for_amqp_is_refused() -> None:
    with pytest.raises(ValueError, match="has 256 bytes; at most 255 are allowed"):
        make_settings("amqp://h", name="é" * 128)


# --- the password is nobody's business ----------------------------------------------------------------------------


def test_the_representation_is_the_url_without_the_password() -> None:
    settings = make_settings(f"amqps://bob:{SECRET}@a,b:7/shop")
    assert repr(settings) == str(settings) == "amqps://bob@a:5671,b:7/shop"


def test_the_representation_of_the_default_vhost_is_short() -> None:
    assert repr(Settings()) == "amqp://guest@localhost:5672/"


@pytest.mark.parametrize(
    "url",
    [
        "amqp://bob:{}@h",
        "amqp://bob:{}@h:port",
        "amqp://bob:{}@h?wrong=1",
        "amqp://bob:{}@h?heartbeat=x",
        "amqp://bob:{}@h?heartbeat=-1",
        "amqp://bob:{}@[::1",
        "http://bob:{}@h",
        "http://bob:p@{}@h",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in everything_said_about(url.format(SECRET))


@pytest.mark.parametrize(
    "url",
    [
        "bob:{}@h",
        "//bob:{}@h",
        "amqp:/bob:{}@h",
        "amqp:bob:{}@h",
        "amqp://bob:{}/x@h",
        "amqp://bob:{}#x@h",
        "amqp://bob:{}?x@h",
        "amqp://bob:12?{}@h",
        "amqp://bob:12/{}@h",
        "amqp://bob:[{}]@h",
        "amqp://bob:{}@ho\u2100st",
    ],
)
def test_a_password_in_a_badly_written_url_is_never_shown(url: str) -> None:
    assert SECRET not in everything_said_about(url.format(SECRET))


@pytest.mark.parametrize("url", ["amqp://h?password={}", "amqp://bob:{}", "amqp://bob:{}/vhost"])
def test_a_password_in_the_wrong_place_is_never_shown(url: str) -> None:
    assert SECRET not in everything_said_about(url.format(SECRET))


@pytest.mark.parametrize("url", [3, [3], b"amqp://localhost", [b"amqp://h"], {"url": SECRET}], ids=repr)
def test_a_url_of_another_type_is_told_what_is_wanted(url: object) -> None:
    with pytest.raises(TypeError, match="a str or a list of them, not") as caught:
        make_settings(url)  # type: ignore[arg-type]

    assert SECRET not in str(caught.value)
