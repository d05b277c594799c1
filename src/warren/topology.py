"""Declaring what clients and servers both need at the broker."""

from __future__ import annotations

from warren import wire
from warren.amqp.link import ACCESS_REFUSED, ChannelClosed, ConnectFailed, Link
from warren.errors import Code, Execution, Origin, make_error


async def declare_exchanges(link: Link) -> None:
    """Declare Warren's two exchanges; without the permission to, trust that somebody else has."""
    for name in (wire.EXCHANGE, wire.BOUNCE_EXCHANGE):
        channel = await link.channel()
        try:
            await channel.declare_exchange(name, "direct")
            await channel.close()
        except ChannelClosed as error:
            if error.code != ACCESS_REFUSED:
                raise ConnectFailed(
                    make_error(
                        Code.FAILED_PRECONDITION,
                        "TOPOLOGY",
                        f"exchange {name!r} cannot be declared: {error.text}",
                        execution=Execution.NOT_SENT,
                        origin=Origin.BROKER,
                    ),
                    permanent=True,
                ) from error
