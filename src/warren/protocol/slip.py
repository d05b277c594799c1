"""Routing slips: which stages a pipeline has, and how far it is. docs/wire.md, Pipelines, is the prose of this. Pure.

A slip travels with the request of each stage, and the worker that has run one writes the next one's request. It is
anybody's claim, so it is read like any other input: bounded, checked, and nothing in it is believed that a worker can
know by itself.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import Annotated, Any, Final

import msgspec

from warren.amqp.frames import FrameError, Properties, encode_properties, shortstr
from warren.amqp.tables import encode_value, join_table, pick, split_table
from warren.errors import CallError
from warren.protocol import evidence, topology
from warren.protocol.request import BOUNCE_LIMIT, LEAN, PERSISTENT, USUAL_ORDER, VERSION, Request, check_name
from warren.protocol.stage import SLIP, Following, is_carried, slip_field, slip_text

#: Behind a method's name: asks for it as a stage. No method has such a name, so whoever knows no slips refuses it.
MARK: Final = ">"
_MARK: Final = MARK.encode()
_SLIP: Final = SLIP.encode()

MOST_STAGES: Final = 16
#: Bytes of the longest slip, with all that it keeps: a content header has to fit into one frame.
LONGEST: Final = 2000
#: Bytes that are left for what is noted on a slip when its pipeline ends.
_NOTED: Final = 40
_LONGEST_NAME: Final = 456

_LEAN: Final = LEAN.encode()


class SlipError(ValueError):
    """A slip that makes no sense, or does not fit; the text says why."""


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage.

    Attributes:
        to: ``service.method``.
        undo: the method that undoes it, if there is one.
        kept: what that one gets, as a request's body, once the stage has run.
    """

    to: Annotated[str, msgspec.Meta(min_length=3, max_length=_LONGEST_NAME)]
    undo: Annotated[str, msgspec.Meta(min_length=3, max_length=_LONGEST_NAME)] | None = None
    kept: bytes | None = None

    @property
    def queue(self) -> str:
        """Where its requests go."""
        return queue_of(self.to)


class Slip(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """The stages of a pipeline, and how far it is.

    Attributes:
        stages: all of them.
        at: which one the request is for; the first is 0.
        again: whether a stage before may have been run, and have handed over, more than once.
        undone: whether what the stages before have done is being undone: it must not go on.
        lean: whether its caller knows that the queues of all stages take everything.
    """

    stages: Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1, max_length=MOST_STAGES)]
    at: Annotated[int, msgspec.Meta(ge=0, lt=MOST_STAGES)] = 0
    again: bool = False
    undone: bool = False
    lean: bool = False

    @property
    def here(self) -> Stage:
        """The stage that the request is for."""
        return self.stages[self.at]

    @cached_property
    def is_last(self) -> bool:
        return self.at + 1 == len(self.stages)

    @property
    def to_undo(self) -> list[Stage]:
        """Those that have run and can be undone, the last one first."""
        return [] if self.undone else [s for s in reversed(self.stages[: self.at]) if s.undo and s.kept is not None]

    @cached_property
    def kind(self) -> bytes:
        """The type of a request that is at its stage."""
        return (method_name(self.here.to) + MARK).encode()

    @cached_property
    def following(self) -> Following | None:
        """What the next stage's request has of its own, if that may be a lean one: nothing is to be undone then."""
        if self.is_last or not self.lean or self.undone or any(stage.undo is not None for stage in self.stages):
            return None
        following = Slip(self.stages, self.at + 1, self.again, lean=True)
        queue, kind = following.here.queue.encode(), shortstr(following.kind)
        return Following(queue, kind, slip_field(_encode(following)), slip_field(_encode(self)))

    @property
    def name(self) -> str:
        """Which stage this is, for people."""
        return f"stage {self.at + 1} of {len(self.stages)}"

    def onward(self, kept: bytes, *, again: bool) -> Slip:
        """The slip of the next stage, now that this one has run; `kept` is what its undoing would get."""
        here = self.here
        if here.undo is not None:
            here = Stage(here.to, here.undo, kept)
        stages = (*self.stages[: self.at], here, *self.stages[self.at + 1 :])
        return Slip(stages, self.at + 1, self.again or again, self.undone)

    def marked(self, *, again: bool = False, undone: bool = False) -> Slip:
        """The same, and it says that too."""
        return Slip(self.stages, self.at, self.again or again, self.undone or undone)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Slip).decode


def queue_of(full_name: str) -> str:
    """The queue of the service of ``service.method``."""
    return topology.service_queue(full_name.rpartition(".")[0])


def method_name(full_name: str) -> str:
    """The method of ``service.method``."""
    return full_name.rpartition(".")[2]


def slip_fields(slip: Slip) -> bytes:
    """The header fields that carry a slip; no table.

    Raises:
        SlipError: it is too long, or will be at its last stage.
    """
    _text(Slip(slip.stages, len(slip.stages) - 1, slip.again, slip.undone))
    return slip_field(_text(slip))


def lean_fields(slip: Slip) -> bytes:
    """The same of one whose queues are all known to take everything; empty where something could be undone."""
    if any(stage.undo is not None for stage in slip.stages):
        return b""
    return slip_field(_encode(Slip(slip.stages, lean=True)))


def _text(slip: Slip) -> bytes:
    text = _encode(slip)
    if len(text) > LONGEST - _NOTED:
        raise SlipError(
            f"the slip of the pipeline has {len(text)} bytes, and {LONGEST - _NOTED} are allowed: take fewer stages or"
            " shorter names, or return less from a stage that can be undone"
        )
    return text


def is_stage(p: Properties) -> bool:
    """Whether a request asks for a stage."""
    return p.type is not None and p.type.endswith(_MARK)


def read_slip(p: Properties) -> Slip:
    """The slip of a request.

    Raises:
        SlipError: there is none, or none that makes sense.
    """
    text = slip_text(p)  # first: a worker knows slips by these bytes, so they have to be what is read
    if text is None:
        text = _found_text(p)
    if text is None or len(text) > LONGEST:
        raise SlipError(
            f"a stage of a pipeline has no slip: send the header {SLIP!r}, a text of at most {LONGEST} bytes"
        )
    try:
        slip = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SlipError(f"the slip cannot be read: {error}; send one as docs/wire.md has it") from error
    if slip.at >= len(slip.stages):
        raise SlipError(f"the slip is at stage {slip.at + 1} of {len(slip.stages)}: mend whoever wrote it")
    for stage in slip.stages:
        _check_target(stage.to)
        if stage.undo is not None:
            _check_target(stage.undo)
    return slip


def _found_text(p: Properties) -> bytes | None:
    """The text of the slip, wherever among the headers it stands."""
    try:
        text = pick(p.table or b"", _SLIP).get(SLIP)
    except FrameError as error:
        raise SlipError(f"the headers of a stage cannot be read: {error}; send an AMQP table") from error
    return text.encode() if isinstance(text, str) else None


def _check_target(full_name: str) -> None:
    """A worker publishes there in its own name: to services, and to no other queue."""
    service, _, method = full_name.rpartition(".")
    try:
        topology.check_service(service)
        check_name(method + MARK)
    except ValueError as error:
        raise SlipError(f"the slip names what cannot be called: {error}; mend whoever wrote it") from error
    if not method:
        raise SlipError(f"the slip names {full_name!r}: say 'service.method'")


def read_own_slip(p: Properties, service: str) -> Slip:
    """The slip of a request that has come to this service.

    Raises:
        SlipError: there is none that makes sense here, or its pipeline must not go on.
    """
    slip = read_slip(p)
    name = method_name(slip.here.to)
    if slip.here.to != f"{service}.{name}" or p.type != slip.kind:
        raise SlipError(f"the slip is at {slip.here.to!r}, and this is another stage: mend the peer")
    if slip.undone:
        raise SlipError("what the pipeline had done was undone, so it must not go on: send the pipeline again")
    return slip


def slip_of(p: Properties) -> Slip | None:
    """The slip of a request; None where it has none, or none that makes sense."""
    try:
        return read_slip(p) if is_stage(p) else None
    except SlipError:
        return None


def onward_properties(
    request: Request,
    slip: Slip,
    *,
    size: int,
    budget: float | None,
    marked: bool,
    server_user: str,
    word: bool = False,
    bounce: bool = True,
) -> bytes:
    """The property bytes of the next stage's request.

    Its ids, its caller, the application's headers and the end of its time are those of the request before. While
    something would have to be undone, it does not expire and is stored: only a worker can see to that.

    Args:
        request: of the stage that has run.
        slip: of the next one.
        size: bytes of its body.
        budget: seconds left, None for no limit.
        marked: whether another request of this stage may be run beside this one.
        server_user: the AMQP user that publishes it.
        word: whether this stage's queue takes everything, which the caller may want to hear of all.
        bounce: whether its bounce may come back to the caller, who has asked for it.

    Raises:
        SlipError: the slip is too long.
    """
    p = copy(request.properties)
    table = _kept(p)
    at_once = p.expiration == b"0"
    if bounce and (at_once or size <= BOUNCE_LIMIT) and _asks_bounce(p):
        table[b"CC"] = encode_value([(p.reply_to or b"").decode("utf-8", "replace")])
    table[_SLIP] = encode_value(_text(slip).decode())
    if word and request.asks_lean:
        table[_LEAN] = encode_value(True)
    if marked:
        table[b"rpc-attempt"] = encode_value(1)
    if budget is not None:
        left = max(0, int(budget * 1000))
        table[b"rpc-timeout-ms"] = encode_value(left)
        p.expiration = b"0" if at_once else b"%d" % left
    if slip.to_undo:
        p.expiration, p.delivery_mode = None, PERSISTENT
    _name_user(p, table, request, server_user)
    p.type = slip.kind
    p.table = join_table({name: table[name] for name in USUAL_ORDER if name in table} | table)
    return encode_properties(p)


def _kept(p: Properties) -> dict[bytes, bytes]:
    table = split_table(p.table or b"")
    return {name: value for name, value in table.items() if is_carried(name)}


def _asks_bounce(p: Properties) -> bool:
    """Whether the request asks for its own bounce, and for nothing else by that header."""
    wanted = encode_value([(p.reply_to or b"").decode("utf-8", "replace")])
    return bool(p.reply_to) and split_table(p.table or b"").get(b"CC") == wanted


def _name_user(p: Properties, table: dict[bytes, bytes], request: Request, server_user: str) -> None:
    """Who has made the call: the broker lets a publisher name only itself."""
    if p.user_id is not None:
        table[b"rpc-user"] = encode_value(request.verified_user(server_user))
        p.user_id = server_user.encode()


def undo_properties(request: Request, stage: Stage, *, server_user: str) -> bytes:
    """The property bytes of the cast that undoes a stage: an ordinary one, with an id that is equal each time."""
    given = request.properties
    p = Properties(content_type=given.content_type, delivery_mode=PERSISTENT, app_id=given.app_id)
    p.user_id = given.user_id
    id = (given.message_id or given.correlation_id or b"")[:200]
    p.message_id = p.correlation_id = (id + b"/undo/" + stage.to.encode())[:255]
    p.type = method_name(stage.undo or "").encode()
    table = {name: value for name, value in _kept(given).items() if not name.startswith(b"rpc-")}
    table[b"rpc-v"] = encode_value(VERSION)
    root: Any = request.root_id
    if root is not None:
        table[b"rpc-root"] = encode_value(root)
    _name_user(p, table, request, server_user)
    p.table = join_table(table)
    return encode_properties(p)


def with_slip(properties: Properties, slip: Slip) -> Properties:
    """A stage's properties with this slip, as they are kept where it is set aside."""
    p = copy(properties)
    table = split_table(p.table or b"")
    table[_SLIP] = encode_value(_encode(slip).decode())
    p.table, p.type = join_table(table), slip.kind
    return p


def resumed(properties: Properties) -> Properties:
    """A copy of a dead request's properties; a stage says that another attempt at it may have handed over."""
    slip = slip_of(properties)
    if slip is None or all(stage.undo is None for stage in slip.stages):
        return copy(properties)
    return with_slip(properties, slip.marked(again=True))


def blame(error: CallError, slip: Slip) -> None:
    """Make an error say in which stage a pipeline has ended, in words as well."""
    evidence.of_stage(error, slip.at + 1, slip.here.to, undone=slip.undone)
    error.message = f"{slip.name}: {error.message}"
