"""Getting a connection: what a client may expect of a broker that is late, mute, full or gone."""

import pytest

from tests.support.evidence import ending
from tests.support.proxy import Proxy
from warren import AsyncClient, Execution


@pytest.mark.scenario(2, "A wrong password is one authentication error within 2 s, after one attempt.")
async def test_a_wrong_password_is_tried_once(proxy: Proxy) -> None:
    async with AsyncClient(proxy.url, password="wrong", timeout=10) as client:
        got = await ending(client.call("any.thing"), within=2)
        assert got.evidence == ("AUTHENTICATION", Execution.NOT_SENT)
        assert (await ending(client.call("any.thing"), within=0.1)).reason == "AUTHENTICATION"
    assert len(proxy.accepted) == 1
