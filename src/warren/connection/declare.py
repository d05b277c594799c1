"""Declaring what clients and servers both need at the broker."""

from __future__ import annotations

import contextlib

from warren.connection.dial import open_link
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed, ConnectFailed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.protocol import evidence, topology


async def declare_exchanges(link: Link) -> bool:
    """Declare Warren's two exchanges; without the permission to (False), trust that somebody else has."""
    allowed = True
    for name in (topology.EXCHANGE, topology.BOUNCE_EXCHANGE):
        channel = await link.channel()
        try:
            await channel.declare_exchange(name, "direct")
            await channel.close()
        except ChannelClosed as error:
            if error.code != ACCESS_REFUSED:
                message = f"exchange {name!r} cannot be declared: {error.text}; delete it, or mend what the broker says"
                raise ConnectFailed(evidence.conclude(evidence.TOPOLOGY, message), permanent=True) from error
            allowed = False
    return allowed


async def declare_control_exchange(link: Link) -> None:
    """Declare the exchange for control messages, or trust that somebody who may has done so.

    What needs it is told by the broker where it is not there. Who may not is not asked again: each refusal closes a
    channel and fills the broker's log.
    """
    if link.may_not_declare_control:
        return
    channel = await link.channel()
    try:
        await channel.declare_exchange(topology.CONTROL_EXCHANGE, "direct")
        await channel.close()
    except ChannelClosed as error:
        link.may_not_declare_control = error.code == ACCESS_REFUSED


async def remove_queues(settings: Settings, service: str) -> None:
    """Delete a service's queues with all that is in them, over a connection of its own, if a broker can be reached."""
    for host, port in settings.hosts:
        with contextlib.suppress(ConnectFailed, ChannelClosed, LinkLost):
            link = await open_link(settings, host, port)
            try:
                channel = await link.channel()
                for queue in (topology.service_queue(service), topology.dead_queue(service)):
                    await channel.delete_queue(queue)
            finally:
                await link.close()
            return
