"""What errors say: no more than is known, and nothing that what is known later contradicts."""

import pytest

from warren import CallError
from warren.client.outcomes import after_items, after_sending, channel_closed, connection_lost
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed


@pytest.mark.parametrize(
    "error",
    [connection_lost("the link was lost"), channel_closed(ChannelClosed(ACCESS_REFUSED, "no"))],
    ids=["lost", "refused"],
)
def test_an_error_does_not_deny_what_the_items_have_proven(error: CallError) -> None:
    assert error.execution.value == "UNKNOWN"
    assert "look what was done" in error.message
    after_sending(error, 3, 1)
    after_items(error, 1)
    assert error.execution.value == "EXECUTED"
    assert "not known" not in error.message
