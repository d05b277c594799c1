"""What a service needs at the broker, as data, and declaring it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from warren.connection.channel import Channel
from warren.connection.errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, ChannelClosed, ConnectFailed
from warren.connection.link import Link
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence, topology
from warren.protocol.evidence import conclude
from warren.server.worker import Served

log = get_logger("warren.server")


class Step(NamedTuple):
    """One declaration.

    Attributes:
        declare: does it on a channel of its own, as the broker closes the channel of one that it refuses.
        needed: whether the service cannot be served without it.
    """

    declare: Callable[[Channel], Awaitable[None]]
    needed: bool


def steps(service: Served) -> Iterator[Step]:
    """What there is to declare for a service, in order."""
    queue, dead = topology.service_queue(service.name), topology.dead_queue(service.name)
    quorum = service.queue == "quorum"
    arguments = topology.queue_arguments(quorum=quorum, max_length=service.max_length)
    dead_arguments = topology.dead_queue_arguments(quorum=quorum)
    if service.declare:
        yield Step(lambda channel: channel.declare_queue(queue, arguments=arguments), needed=True)
        yield Step(lambda channel: channel.declare_queue(dead, arguments=dead_arguments), needed=False)
        yield Step(lambda channel: _keep_deaths(channel, service.name), needed=False)
    yield Step(lambda channel: channel.bind(queue, topology.EXCHANGE, service.name), needed=True)


async def _keep_deaths(channel: Channel, service: str) -> None:
    """Let the dead queue have what the broker takes off the service's queue, except what expired."""
    dead = topology.dead_queue(service)
    await channel.declare_exchange(dead, "headers", auto_delete=True)  # goes with the queue
    for arguments in topology.KEPT_DEATHS:
        await channel.bind(dead, dead, "", arguments=arguments)
    await channel.bind_exchange(dead, topology.BOUNCE_EXCHANGE, service)


async def declare(link: Link, service: Served) -> bool:
    """Declare what a service needs; False where the broker does not allow all of it.

    Raises:
        ConnectFailed: the service cannot be served.
    """
    allowed = True
    for step in steps(service):
        channel = await link.channel()
        try:
            await step.declare(channel)
            await channel.close()
        except ChannelClosed as error:
            if error.code == ACCESS_REFUSED:
                # Least privilege: somebody with the permission has done it before.
                log.info("%s: using what is there, as the broker refuses a declaration: %s", service.name, error.text)
                allowed = False
            elif step.needed or error.code not in (NOT_FOUND, PRECONDITION_FAILED):
                raise ConnectFailed(refusal(service, error), permanent=True) from error
            else:  # on a node that is down, or made by somebody else: the service can be served all the same
                log.warning(
                    "%s: the dead queue has other arguments than it should have: %s; delete it, and it is made again",
                    service.name,
                    error.text,
                )
    return allowed


def refusal(service: Served, error: ChannelClosed) -> CallError:
    """Why a service cannot be served, when the broker closed a channel over it."""
    queue = topology.service_queue(service.name)
    if error.code == PRECONDITION_FAILED:
        message = (
            f"queue {queue!r} exists with other arguments: {error.text}. Delete it, or serve it as it is with"
            f" Service({service.name!r}, declare=False)"
        )
        return conclude(evidence.QUEUE_ARGUMENTS, message)
    return conclude(evidence.TOPOLOGY, f"queue {queue!r} cannot be used: {error}; look at the broker's log")
