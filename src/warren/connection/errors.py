"""How a connection and its channels end."""

from __future__ import annotations

from warren.errors import CallError

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406  # reply codes, AMQP 0-9-1 section 1.2


class ChannelClosed(Exception):
    """The broker closed a channel; `code` and `text` are its reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class LinkLost(Exception):
    """The connection is gone."""


class ConnectFailed(Exception):
    """There is no connection, for the reason in `error`; a `permanent` one stays until somebody acts on it."""

    def __init__(self, error: CallError, *, permanent: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.permanent = permanent
