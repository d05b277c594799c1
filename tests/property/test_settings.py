"""Connection settings from URLs."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusals import everything_said_about
from warren.connection.settings import make_settings

host_names = st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True)
hosts = st.one_of(host_names, st.ip_addresses(v=4).map(str))
ports = st.integers(1, 65535)
words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
MARK = "S3CRET"
#: Passwords that cannot be mistaken for something else.
secrets = st.text(st.characters(codec="utf-8"), max_size=10).map(lambda rest: MARK + rest + MARK)


def escaped(text: str) -> str:
    return quote(text, safe="")


@given(words, words, words, st.lists(st.tuples(hosts, ports), min_size=1, max_size=3), st.integers(0, 65535))
def test_what_is_percent_encoded_into_a_url_is_read_from_it(
    user: str, password: str, vhost: str, addresses: list[tuple[str, int]], heartbeat: int
) -> None:
    netloc = ",".join(f"{host}:{port}" for host, port in addresses)
    url = f"amqp://{escaped(user)}:{escaped(password)}@{netloc}/{escaped(vhost)}?heartbeat={heartbeat}"
    settings = make_settings(url)
    assert (
        settings.username,
        settings.password,
        settings.vhost,
        settings.hosts,
        settings.heartbeat,
    ) == (user, password, vhost, tuple(addresses), heartbeat)


#: Where a percent-encoded password may stand: in right URLs and in wrong ones.
places = st.sampled_from(
    [
        "amqp://bob:{}@host",
        "amqp://bob:{}@one:1,two:2/vhost?heartbeat=3",
        "amqp://bob:{}@host:port",
        "amqp://bob:{}@host:99999",
        "amqp://bob:{}@host?wrong=1",
        "amqp://bob:{}@host?heartbeat=soon",
        "amqp://bob:{}@host?heartbeat=-1",
        "amqp://bob:{}@host?connect_timeout=0",
        "http://bob:{}@host",
    ]
)


@given(secrets, places)
def test_a_percent_encoded_password_is_in_no_representation_and_in_no_error(secret: str, place: str) -> None:
    assert MARK not in everything_said_about(place.format(escaped(secret)))


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused_with_a_value_error(url: str) -> None:
    try:
        make_settings(url)
    except ValueError:
        return


@given(st.text(max_size=40))
def test_anything_after_the_scheme_is_read_or_refused_with_a_value_error(rest: str) -> None:
    try:
        make_settings(f"amqp://{rest}")
    except ValueError:
        return
