"""Settling futures that may be settled already."""

from __future__ import annotations

import asyncio
from typing import Any

from pika.exceptions import AMQPError


def resolve(future: asyncio.Future[Any], value: Any) -> None:
    """Give the result, unless there is an end already."""
    if not future.done():
        future.set_result(value)


def reject(future: asyncio.Future[Any], error: BaseException) -> None:
    """Give the error, unless there is an end already."""
    if not future.done():
        future.set_exception(error if isinstance(error, Exception) else AMQPError(repr(error)))
