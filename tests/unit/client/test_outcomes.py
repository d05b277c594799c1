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


@pytest.mark.parametrize(
    ("sent", "taken", "note"),
    [
        (3, 2, "3 items had been sent, and at least 2 taken"),
        (1, 0, "1 item had been sent, and none is known to have been taken"),
        (0, 0, "no item had been sent"),
    ],
)
def test_the_note_of_an_upload_counts_what_is_known(sent: int, taken: int, note: str) -> None:
    error = connection_lost("the link was lost")
    after_sending(error, sent, taken)
    assert error.__notes__ == [note]
