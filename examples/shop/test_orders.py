"""Tests of the shop: ``pytest`` in this folder. All services run in this process, on an embedded broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import left
from fastapi.testclient import TestClient
from front import app
from inventory import inventory
from mail import mail
from model import Basket, Cancelled, CardDeclined, SoldOut
from nightly import finish_all
from orders import Orders, orders
from payments import Bank, payments
from store import Store

from warren import Client, Unavailable, remote
from warren.testing.plugin import Serve

TEA = Basket("tea", 2, card="good", email="ann@example.org")
place, find = remote(Orders).place, remote(Orders).find


@pytest.fixture
def client(
    warren_serve: Serve, warren_client: Client, warren_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Client:
    monkeypatch.setenv("SHOP_DB", str(tmp_path / "shop.sqlite3"))
    monkeypatch.setenv("WARREN_URL", warren_url)  # for the clients in `orders` and in the front
    for service in (inventory, payments, mail, orders):
        warren_serve(service)
    return warren_client


class DeafBank(Bank):
    """Takes the money, and the answer is lost on the way."""

    async def pay(self, order: str, card: str, amount: int) -> bool:
        await super().pay(order, card, amount)
        raise Unavailable("the bank hung up")


@pytest.fixture
def deaf_bank() -> Iterator[None]:
    with payments.override(Bank, DeafBank(Store(":memory:"))):
        yield


def test_an_order_is_reserved_paid_and_mailed_once_however_often_it_is_placed(client: Client) -> None:
    first, again = client.call(place, "1", TEA), client.call(place, "1", TEA)
    assert (first.status, first.total) == ("paid", 600)
    assert again == first == client.call(find, "1")
    assert client.call(left, "tea") == 9998


def test_what_cannot_be_had_or_paid_is_cancelled_and_put_back(client: Client) -> None:
    with pytest.raises(SoldOut):
        client.call(place, "1", Basket("unicorn", 1, "good", ""))
    with pytest.raises(CardDeclined):
        client.call(place, "2", Basket("tea", 5, "broke", ""))
    with pytest.raises(Cancelled):  # a customer whose answer got lost is not told that all is well
        client.call(place, "2", Basket("tea", 5, "broke", ""))
    assert [client.call(find, number).status for number in "12"] == ["cancelled", "cancelled"]
    assert client.call(left, "tea") == 10000


def test_an_order_whose_payment_is_in_doubt_stays_open_until_the_night(deaf_bank: None, client: Client) -> None:
    with pytest.raises(Unavailable, match="the bank hung up"):
        client.call(place, "1", TEA)
    assert client.call(find, "1").status == "open"
    assert finish_all(client, older_than=0) == {"paid": 1}
    assert client.call(find, "1").status == "paid"


def test_the_front_says_in_http_how_a_call_ended(deaf_bank: None, client: Client) -> None:
    wish = {"item": "tea", "count": 1, "card": "good", "email": "ann@example.org"}
    with TestClient(app) as web:
        doubt = web.post("/orders", json=wish, headers={"Idempotency-Key": "1"})
        assert (doubt.status_code, doubt.headers["Retry-After"]) == (503, "1")
        assert web.get("/orders/1").json()["status"] == "open"
        assert web.get("/orders/2").status_code == 404
        assert web.post("/orders", json=wish | {"count": 0}, headers={"Idempotency-Key": "3"}).status_code == 422
        assert web.post("/orders", json=wish | {"item": "unicorn"}, headers={"Idempotency-Key": "4"}).status_code == 409
