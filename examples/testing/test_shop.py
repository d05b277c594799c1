"""Tests of `shop`: as functions, over the wire, asynchronously, and with faults."""

import asyncio

import pytest

from shop import SoldOut, buy, count_shelves, service, shelf, wrap
from warren import AsyncClient, Client, InvalidArgument, WorkerLost
from warren.testing.plugin import Faults, Serve


@pytest.fixture(autouse=True)
def full_shelf() -> None:
    shelf.clear()
    shelf["tea"] = 3


def test_a_method_is_a_function() -> None:
    assert buy("tea") == 2


@pytest.fixture
def client(warren_serve: Serve, warren_client: Client) -> Client:
    """A client of the running shop."""
    warren_serve(service)
    return warren_client


def test_buying_leaves_less(client: Client) -> None:
    assert client.call(buy, "tea", 2) == 1
    assert shelf == {"tea": 1}


def test_nobody_buys_what_is_not_there(client: Client) -> None:
    with pytest.raises(SoldOut, match="coffee"):
        client.call(buy, "coffee")
    with pytest.raises(InvalidArgument):
        client.call(buy, "tea", 0)
    assert shelf == {"tea": 3}


@pytest.mark.asyncio
async def test_three_customers_at_once(warren_serve: Serve, warren_async_client: AsyncClient) -> None:
    warren_serve(service, workers=2)
    left = await asyncio.gather(*(warren_async_client.call(buy, "tea") for _ in range(3)))
    assert sorted(left) == [0, 1, 2]


def test_a_customer_who_cannot_wait(client: Client, warren_faults: Faults) -> None:
    with warren_faults.stall(), pytest.raises(TimeoutError):
        client.options(timeout=0.2).call(buy, "tea")
    assert client.call(buy, "tea") == 2  # so the customer who went away got nothing


def test_a_lost_parcel_is_reported(warren_serve: Serve, warren_client: Client, warren_faults: Faults) -> None:
    warren_serve(service, workers=2, processes=True)
    parcel = warren_client.submit(wrap, "tea")
    warren_faults.kill_worker()
    with pytest.raises(WorkerLost):
        parcel.result()


def test_counting_survives_a_worker(warren_serve: Serve, warren_client: Client, warren_faults: Faults) -> None:
    warren_serve(service, workers=2, processes=True)
    count = warren_client.submit(count_shelves)
    warren_faults.kill_worker()
    assert count.result() == 0  # the other worker is a process too, with a shelf of its own
