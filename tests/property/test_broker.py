"""The embedded broker against anything that can come: random bytes, any cuts, any order of operations."""

from __future__ import annotations

import re
from collections import deque
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pika import spec

from tests.support.sessions import HEADER, Peer, connect, make_state, method, publish
from warren.amqp.frames import FrameError
from warren.amqp.tables import decode_value, encode_value, join_table, split_table
from warren.broker.exchanges import split_words, topic_matches

# --- bytes ------------------------------------------------------------------------------------------------------------

_LOGIN = (
    HEADER
    + method(0, spec.Connection.StartOk({"capabilities": {}}, "PLAIN", "\0guest\0guest"))
    + method(0, spec.Connection.TuneOk(10, 4096, 0))
    + method(0, spec.Connection.Open("/"))
    + method(1, spec.Channel.Open())
)
_FRAMES = st.sampled_from(
    [
        method(1, spec.Queue.Declare(queue="q", arguments={"x-max-length": 3, "x-dead-letter-exchange": ""})),
        method(1, spec.Queue.Bind(queue="q", exchange="amq.topic", routing_key="a.#")),
        method(1, spec.Basic.Consume(queue="q", consumer_tag="c")),
        method(1, spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)),
        method(1, spec.Basic.Cancel("c")),
        method(1, spec.Basic.Get(queue="q")),
        method(1, spec.Basic.Ack(1)),
        method(1, spec.Basic.Nack(0, multiple=True, requeue=True)),
        method(1, spec.Confirm.Select()),
        method(1, spec.Tx.Select()),
        method(1, spec.Queue.Delete(queue="q")),
        method(1, spec.Channel.Close(200, "bye", 0, 0)),
        method(1, spec.Channel.CloseOk()),
        method(1, spec.Channel.Open()),
        method(2, spec.Channel.Open()),
        publish("q", bytes(100), mandatory=True, headers={"CC": ["q", "r"], "BCC": ["s"]}, expiration="10"),
        publish("a.b", exchange="amq.topic"),
        method(0, spec.Connection.Close(200, "bye", 0, 0)),
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
    ]
)
_METHOD_IDS = st.sampled_from(sorted(spec.methods))


def _framed(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


_ODD_METHODS = st.builds(
    lambda index, rest: _framed(1, index >> 16 != 10, index.to_bytes(4) + rest), _METHOD_IDS, st.binary(max_size=40)
)
_ODD_FRAMES = st.builds(_framed, st.integers(0, 9), st.integers(0, 3), st.binary(max_size=40))
_STREAMS = st.lists(st.one_of(_FRAMES, _FRAMES, _ODD_METHODS, _ODD_FRAMES, st.binary(max_size=20)), max_size=12)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_session_raise(data: bytes) -> None:
    peer = Peer(make_state())
    peer.send(data)
    peer.session.take_output()


@given(_STREAMS)
def test_no_frames_make_a_session_raise_and_the_broker_survives_them(pieces: list[bytes]) -> None:
    state = make_state()
    peer, other = Peer(state), connect(state)
    peer.send(_LOGIN, *pieces)
    state.advance(1001.0)
    peer.frames()
    peer.session.lost()
    for queue in state.hosts["/"].queues.values():  # what it held is back
        assert (queue.consumers, queue.unacked) == ([], 0)
    assert other.call(spec.Queue.Declare(queue="another")).NAME == "Queue.DeclareOk"


@given(_STREAMS, st.data())
def test_how_the_bytes_are_cut_up_on_their_way_does_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    """But for confirms, which may come one by one or together; their order and number is the same all the same."""
    stream = _LOGIN + b"".join(piece for piece in pieces if piece != method(1, spec.Confirm.Select()))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    whole, cut = Peer(make_state()), Peer(make_state())
    whole.send(stream)
    for start, stop in pairwise([0, *cuts, len(stream)]):
        cut.send(stream[start:stop])
    assert whole.session.take_output() == cut.session.take_output()
    assert whole.session.phase is cut.session.phase


# --- tables and topics ------------------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=10), _VALUES, max_size=5))
def test_tables_come_apart_and_together(table: dict[str, object]) -> None:
    encoded = encode_value(table)[5:]
    entries = split_table(encoded)
    assert {key.decode(): decode_value(raw) for key, raw in entries.items()} == decode_value(encode_value(table))
    assert join_table(entries) == encoded


@given(st.binary(max_size=60))
def test_what_is_no_table_is_said_so(data: bytes) -> None:
    try:
        entries = split_table(data)
    except FrameError:
        return
    assert len(join_table(entries)) <= len(data)  # keys that come twice count once


_KEYS = st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=5).map(".".join)
_PATTERNS = st.lists(st.sampled_from(["", "a", "b", "*", "#"]), max_size=5).map(".".join)


@given(_PATTERNS, _KEYS)
def test_topics_match_as_the_same_regular_expression_does(pattern: str, key: str) -> None:
    """Each word with a dot behind it, so that # can be any number of them."""
    parts = {"#": r"(?:[^.]*\.)*", "*": r"[^.]*\."}
    expression = "".join(parts.get(word, re.escape(word) + r"\.") for word in split_words(pattern))
    words = split_words(key)
    expected = re.fullmatch(expression, "".join(f"{word}." for word in words)) is not None
    assert topic_matches(split_words(pattern), words) is expected


# --- a queue against a list -------------------------------------------------------------------------------------------


class QueueAgainstList(RuleBasedStateMachine):
    """A queue without limits is a sorted list: what is put back goes where it was, and nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = connect(make_state())
        self.peer.call(spec.Queue.Declare(queue="q"))
        self.waiting: deque[int] = deque()
        self.held: dict[int, int] = {}
        self.published = self.tags = 0

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        for _ in range(count):
            self.peer.send(publish("q", str(self.published).encode()))
            self.waiting.append(self.published)
            self.published += 1

    @rule()
    def get(self) -> None:
        self.peer.send(method(1, spec.Basic.Get(queue="q")))
        frames = self.peer.frames()
        if not self.waiting:
            assert frames[0].method.NAME == "Basic.GetEmpty"
            return
        self.tags += 1
        assert int(frames[2].fragment) == self.waiting[0]
        self.held[self.tags] = self.waiting.popleft()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), multiple=st.booleans())
    def ack(self, data: st.DataObject, multiple: bool) -> None:
        for _ in self._choose(data, multiple, spec.Basic.Ack):
            pass

    @precondition(lambda self: self.held)
    @rule(data=st.data(), multiple=st.booleans())
    def put_back(self, data: st.DataObject, multiple: bool) -> None:
        self.waiting = deque(sorted([*self.waiting, *self._choose(data, multiple, spec.Basic.Nack)]))

    def _choose(self, data: st.DataObject, multiple: bool, how: type) -> list[int]:
        tag = data.draw(st.sampled_from(sorted(self.held)))
        self.peer.send(method(1, how(tag, multiple)))
        return [self.held.pop(number) for number in sorted(self.held) if number == tag or (multiple and number < tag)]

    @rule()
    def recover(self) -> None:
        self.peer.call(spec.Basic.Recover(requeue=True))
        self.waiting = deque(sorted([*self.waiting, *self.held.values()]))
        self.held = {}

    @invariant()
    def nothing_is_lost(self) -> None:
        queue = self.peer.state.hosts["/"].queues["q"]
        assert (queue.waiting.count, queue.unacked) == (len(self.waiting), len(self.held))


TestQueueAgainstList = QueueAgainstList.TestCase
