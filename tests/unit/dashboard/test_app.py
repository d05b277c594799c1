"""Who is let in, and what the pages may ask, without a browser and without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from warren.connection.settings import make_settings
from warren.dashboard.acting import Acting, Busy, CallWish
from warren.dashboard.app import MOST_ASKED, make_app
from warren.dashboard.guard import Access
from warren.dashboard.picture import Instance
from warren.dashboard.poller import Poller
from warren.dashboard.reading import read
from warren.dashboard.running import make_access
from warren.operate.told import Info

URL = "amqp://127.0.0.1:1/"  # nobody listens: what would reach a broker fails
TOKEN = "a-token-of-many-characters"
OWN = {"origin": "http://localhost:8765", "x-warren-dashboard": "1", "content-type": "application/json"}


def poller() -> Poller:
    return Poller(make_settings(URL), acting=True)


def browser(access: Access | None = None, *, acting: bool = False, of: Poller | None = None) -> TestClient:
    """One that looks at a dashboard which has not begun to ask."""
    doer = Acting(URL, make_settings(URL)) if acting else None
    app = make_app(of or poller(), access or Access(), doer)
    return TestClient(app, base_url="http://localhost:8765", follow_redirects=False)


# --- pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/dashboard.js", "text/javascript"), ("/dashboard.css", "text/css")],
)
def test_the_pages_are_served(path: str, kind: str) -> None:
    answer = browser().get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/service?name=x"])
def test_every_answer_forbids_what_is_not_ours(path: str) -> None:
    headers = browser().get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_page_has_no_script_or_style_of_its_own_and_names_no_other_place() -> None:
    page = browser().get("/").text
    assert "<script>" not in page
    assert "<style" not in page
    assert "://" not in page


def test_no_page_makes_html_of_text() -> None:
    script = browser().get("/dashboard.js").text
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in script


def test_a_service_is_told_as_it_is_declared_with_hostile_names_as_text() -> None:
    of = poller()
    hostile = "<script>alert(1)</script>\u202e"
    of.picture.instances["one"] = Instance(0, read(Info, {"services": [{"name": hostile, "description": "x\x00"}]}))
    shown = "<script>alert(1)</script>\\u202e"
    answer = browser(of=of).get("/api/service", params={"name": shown})
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["name"], answer.json()["description"]) == (shown, "x\\x00")


def test_a_service_that_is_not_there_is_not_found() -> None:
    assert browser().get("/api/service", params={"name": "nothing"}).status_code == 404


# --- who is let in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:8765", "[::1]:8765", "LOCALHOST"])
def test_this_machine_may_be_called_by_its_names(host: str) -> None:
    assert browser().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8765", "", "[", "@localhost@x"]
)
def test_another_name_that_leads_to_this_machine_is_refused(host: str) -> None:
    assert browser().get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/dashboard.js", "/events", "/api/service?name=x"])
def test_without_the_token_nothing_is_told(path: str) -> None:
    assert browser(Access(token=TOKEN)).get(path).status_code == 401


def test_a_wrong_token_is_no_token() -> None:
    assert browser(Access(token=TOKEN)).get("/?token=another-of-many-characters").status_code == 401


def test_the_token_is_given_once_in_the_address_and_then_in_a_cookie_that_scripts_do_not_see() -> None:
    client = browser(Access(token=TOKEN))
    welcome = client.get(f"/?token={TOKEN}")
    cookie = welcome.headers["set-cookie"]
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
    assert "httponly" in cookie.lower()
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200


def test_programs_send_the_token_as_a_bearer_token() -> None:
    assert browser(Access(token=TOKEN)).get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_on_this_machine_anybody_may_look() -> None:
    assert make_access("127.0.0.1", None, acting=False).token is None


@pytest.mark.parametrize(("host", "acting"), [("0.0.0.0", False), ("127.0.0.1", True), ("192.0.2.1", True)])
def test_beyond_this_machine_and_for_acting_a_token_is_made_if_none_is_given(host: str, acting: bool) -> None:
    token = make_access(host, None, acting=acting).token
    assert token is not None
    assert len(token) >= 32
    assert make_access(host, TOKEN, acting=acting).token == TOKEN


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="take a longer one"):
        make_access("127.0.0.1", "secret", acting=True)


# --- acting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["call", "dead", "dead/retry", "dead/drop"])
def test_nothing_is_done_where_acting_is_not_allowed(deed: str) -> None:
    answer = browser().post(f"/api/{deed}", json={"service": "calc"}, headers=OWN)
    assert (answer.status_code, "--allow-acting" in answer.json()["trouble"]) == (403, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"x-warren-dashboard": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_page_cannot_act(changed: dict[str, str]) -> None:
    answer = browser(acting=True).post("/api/call", content=b"{}", headers=OWN | changed)
    assert (answer.status_code, "own page" in answer.text) == (403, True)


def test_our_own_page_can() -> None:
    answer = browser(acting=True).post("/api/call", content=b"{}", headers=OWN)
    assert (answer.status_code, "makes no sense" in answer.json()["trouble"]) == (400, True)


@pytest.mark.parametrize(
    "wish",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"service": "calc", "method": "fib", "timeout": 1e9}',
        b'{"service": "calc", "method": "fib", "timeout": -1}',
        b'{"service": "calc", "method": "fib", "arguments": [1]}',
        b'{"service": "calc", "method": ""}',
        b'{"service": "calc", "method": "fib", "more": 1}',
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(wish: bytes) -> None:
    answer = browser(acting=True).post("/api/call", content=wish, headers=OWN)
    assert (answer.status_code, list(answer.json())) == (400, ["trouble"])


def test_a_wish_without_an_end_is_not_read_to_its_end() -> None:
    wish = b'{"service": "' + b"x" * MOST_ASKED + b'"}'
    answer = browser(acting=True).post("/api/call", content=wish, headers=OWN)
    assert (answer.status_code, "more than" in answer.json()["trouble"]) == (400, True)


def test_an_act_is_not_a_get() -> None:
    assert browser(acting=True).get("/api/call").status_code == 405


async def test_only_so_much_is_under_way_at_a_time() -> None:
    acting = Acting(URL, make_settings(URL), most=0)
    with pytest.raises(Busy, match="try again"):
        await acting.call(CallWish("calc", "fib"))
    await acting.close()


def test_a_browser_that_is_one_too_many_is_told() -> None:
    app: Any = make_app(poller(), Access(), None, most_browsers=0)
    answer = TestClient(app, base_url="http://localhost").get("/events")
    assert (answer.status_code, "close one" in answer.text) == (503, True)
