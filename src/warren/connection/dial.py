"""Opening a link: the password, the addresses of a host in turn, and one limit of time for all of it."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import socket
from typing import Any

import pika

from warren.connection import addresses
from warren.connection.addresses import Address
from warren.connection.diagnosis import diagnose, no_connection, unreachable
from warren.connection.handshake import shake_hands
from warren.connection.lease import Lease
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.version import __version__

# Pika reports each step of a failed connection at ERROR. We raise one clear error instead, so without a logging
# configuration (Python then prints warnings to stderr) its lines are kept quiet; configured logging still has them.
logging.getLogger("pika").addHandler(logging.NullHandler())

FRAME_MAX = 131_072  # RabbitMQ's own default, and the most that it offers


async def open_link(settings: Settings, host: str, port: int) -> Link:
    """Connect to one host.

    The password function, DNS, TCP, TLS and the AMQP handshake share ``settings.connect_timeout``, and so do the
    addresses of the host: each gets its turn, and none that says nothing takes the time of those behind it.

    Raises:
        ConnectFailed: why not, with all addresses that were tried.
    """
    return await _Dial(settings, host, port).open()


class _Dial:
    """One attempt at one host."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self._settings = settings
        self._host, self._port = host, port
        self._peer = f"{host}:{port}"
        self._lease = Lease(settings.password, settings.connect_timeout, random.Random())
        self._addresses: list[Address] = []
        self._failures: dict[Address, BaseException] = {}
        self._end = asyncio.get_running_loop().time() + settings.connect_timeout

    async def open(self) -> Link:
        silence = TimeoutError(f"no answer within {self._settings.connect_timeout:g} s")
        try:
            async with asyncio.timeout_at(self._end):
                parameters = self._parameters(await self._lease.ask())
                self._addresses = await self._resolve()
                while self._left():
                    if link := await self._next(parameters):
                        return link
        except TimeoutError:
            self._failures |= dict.fromkeys(self._left(), silence)
            if not self._failures:  # not one address is known
                raise no_connection(self._peer, str(silence)) from None
        raise unreachable(self._peer, self._failures) from next(iter(self._failures.values()))

    def _left(self) -> list[Address]:
        """The addresses that have not failed."""
        return [address for address in self._addresses if address not in self._failures]

    def _share(self) -> float:
        """Seconds for each of the addresses that are left."""
        return max(self._end - asyncio.get_running_loop().time(), 0.0) / len(self._left())

    async def _resolve(self) -> list[Address]:
        try:
            return await addresses.resolve(self._host, self._port)
        except (OSError, UnicodeError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or error
            raise no_connection(self._peer, f"the name cannot be resolved: {why}; check the host in the URL") from error

    async def _next(self, parameters: pika.ConnectionParameters) -> Link | None:
        """A link over the first address that answers to TCP; None if that leads to nothing, or none answers."""
        delay = min(addresses.ATTEMPT_DELAY, self._share())
        connected = await addresses.connect_first(self._left(), self._failures, delay)
        if connected is None:
            return None
        sock, address = connected
        limit = self._share() if len(self._left()) > 1 else None  # the last one has all the time that is left
        try:
            async with asyncio.timeout(limit):
                connection, stream = await shake_hands(sock, parameters, self._settings.ssl)
        except TimeoutError:
            self._failures[address] = TimeoutError(f"no answer within {limit:.1f} s")
        except Exception as error:
            if refusal := diagnose(self._settings, self._peer, error):
                raise refusal from error
            self._failures[address] = error
        else:
            return Link(connection, stream, self._settings, self._peer, self._lease)
        return None

    def _parameters(self, secret: str) -> pika.ConnectionParameters:
        return pika.ConnectionParameters(
            host=self._host,
            port=self._port,
            virtual_host=self._settings.vhost,
            credentials=pika.PlainCredentials(self._settings.username, secret),
            heartbeat=self._settings.heartbeat,
            frame_max=FRAME_MAX,
            client_properties=_introduction(self._settings.name),
        )


def _introduction(name: str | None) -> dict[str, Any]:
    """What the broker shows of this connection: what it is, and where to find it."""
    place = f"{socket.gethostname()}:{os.getpid()}"
    return {
        "connection_name": f"{name}@{place}" if name else place,
        "product": "Warren",
        "version": __version__,
        "platform": f"Python {platform.python_version()}, Pika {pika.__version__}",
        "information": "RPC over RabbitMQ",
    }
