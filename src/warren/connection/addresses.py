"""The addresses of a host, and a TCP connection to the first that answers [RFC 8305, Happy Eyeballs].

A name may stand for several brokers, or for an IPv6 and an IPv4 address of one, and the system's resolver cannot know
which of them are dead. So the attempts begin one after the other, soon enough for all, and the first to succeed ends
the others.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
from dataclasses import dataclass
from typing import Any

from warren.connection.outside import Outside

#: Seconds that an address is ahead of the next one, if there is time for all [RFC 8305, section 5].
ATTEMPT_DELAY = 0.25
_outside = Outside("name lookups")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket can be connected to, as `socket.getaddrinfo` says it."""

    family: int
    kind: int
    protocol: int
    where: Any

    def __str__(self) -> str:
        return str(self.where[0])


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host: in the system's order, but families in turn [RFC 8305, section 4].

    Raises:
        socket.gaierror: there is none.
    """
    found = await _outside.ask(functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "it has no address")
    addresses = list(
        dict.fromkeys(Address(family, kind, protocol, where) for family, kind, protocol, _name, where in found)
    )
    first = [address for address in addresses if address.family == addresses[0].family]
    others = [address for address in addresses if address.family != addresses[0].family]
    return [address for pair in itertools.zip_longest(first, others) for address in pair if address is not None]


async def connect_first(
    addresses: list[Address], failures: dict[Address, BaseException], delay: float
) -> tuple[socket.socket, Address] | None:
    """Connect to the first address that answers; None if none does.

    Args:
        addresses: in the order in which they get their turn.
        failures: gets what was wrong with those that failed.
        delay: seconds that an address is ahead of the next one; one that fails is followed at once.
    """
    left = list(reversed(addresses))
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    try:
        while left or attempts:
            if left:
                address = left.pop()
                attempts[asyncio.create_task(_connect(address))] = address
            await asyncio.wait(attempts, timeout=delay if left else None, return_when=asyncio.FIRST_COMPLETED)
            for attempt in [one for one in attempts if one.done()]:
                address = attempts.pop(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result(), address
                failures[address] = error
        return None
    finally:
        await _end(set(attempts))


async def _connect(address: Address) -> socket.socket:
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address.where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _end(attempts: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel these attempts; one that has succeeded by now was too late."""
    for attempt in attempts:
        attempt.cancel()
        attempt.add_done_callback(_discard)
    if attempts:
        await asyncio.wait(attempts)


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
