"""Exceptions made of odd parts: all of them become a reply, and what arrives as itself is what was raised."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren import CallError, Code, Execution, Origin, Unavailable
from warren.amqp.frames import Delivery, decode_properties
from warren.protocol import problems
from warren.protocol.reply import error_reply, read_reply
from warren.protocol.request import Request, RequestTemplate, bare_properties


class Unspeakable:
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__
    __eq__ = __str__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Custom(Exception):
    def __init__(self, text: Any, extra: Any) -> None:
        super().__init__(text)
        self.extra = extra


class OfStock(CallError):
    def __init__(self, text: Any, sku: Any) -> None:
        super().__init__(text)
        self.sku = sku


surrogates = st.text(st.characters(codec=None, categories=["Cs", "L", "Cc"]), max_size=300)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    surrogates,
    st.binary(),
    st.builds(object),
    st.builds(Unspeakable),
    st.sampled_from([*Code, *Execution, *Origin, int]),
)
odd = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)
errors: st.SearchStrategy[BaseException] = st.one_of(
    st.builds(lambda args: ValueError(*args), st.lists(odd, max_size=3)),
    st.builds(lambda args: KeyError(*args), st.lists(odd, max_size=3)),
    st.builds(Custom, odd, odd),
    st.builds(OfStock, odd, odd),
    st.builds(lambda m, c, r, e, o: Unavailable(m, code=c, reason=r, execution=e, origin=o), odd, odd, odd, odd, odd),
    st.builds(KeyboardInterrupt, odd),
)
PARTS = ("extra", "sku")


def bare_or_not(bare: bool) -> Request:
    delivery = Delivery(1, False, b"\x00\x04calc")
    if bare:
        delivery.properties = bare_properties(b"1", b"q", b"1")
    else:
        template = RequestTemplate("m", content_type="application/json", reply_to=b"q", bounce=False, durable=False)
        delivery.properties = template.encode(b"1", b"1", 1, 1, b"1")
    return Request(delivery)


@given(errors, st.booleans(), st.booleans())
def test_every_exception_becomes_a_reply_that_can_be_read(error: BaseException, bare: bool, tracebacks: bool) -> None:
    known: Any = {type(error).__name__: type(error)} if isinstance(error, Exception) else {}
    status, problem = problems.describe(error, known, tracebacks=tracebacks)
    properties, body = error_reply(bare_or_not(bare), status, problem)
    with pytest.raises(Exception) as caught:
        read_reply(decode_properties(properties), body, lambda what, status: problems.rebuild(what, status, known))
    arrived = caught.value
    if type(arrived) in (ValueError, KeyError, Custom):
        assert (str(arrived), repr(arrived.args)) == (str(error), repr(error.args))
        assert [repr(getattr(arrived, n, None)) for n in PARTS] == [repr(getattr(error, n, None)) for n in PARTS]
