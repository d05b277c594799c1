"""What Hypothesis draws from: everything AMQP allows, so that nothing rests on what Warren happens to send."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

channels = st.integers(1, 65535)
tags = st.integers(1, 2**64 - 1)
#: Short strings: up to 255 bytes of UTF-8 [AMQP 0-9-1, 4.2.5.3].
short = st.one_of(st.text(max_size=63), st.sampled_from(["", "a" * 255, "é" * 127]))
names = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=40)
#: The ids and addresses of real calls, which are never empty.
ids = st.binary(min_size=1, max_size=255)

_decimals = st.builds(
    lambda raw, places: Decimal(raw).scaleb(-places), st.integers(-(2**31), 2**31 - 1), st.integers(0, 20)
)
_moments = st.integers(0, 253402300799).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
_scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
    st.binary(max_size=20),
    _decimals,
    _moments,
)
_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(short, inner, max_size=3)),
    max_leaves=6,
)
#: Header tables with every type that Pika writes.
tables = st.dictionaries(short, _values, max_size=4)

#: Property sets: any of the fourteen, by Pika's names.
property_sets: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "headers": tables,
        "delivery_mode": st.integers(0, 255),
        "priority": st.integers(0, 255),
        "correlation_id": short,
        "reply_to": short,
        "expiration": short,
        "message_id": short,
        "timestamp": st.integers(0, 2**64 - 1),
        "type": short,
        "user_id": short,
        "app_id": short,
        "cluster_id": short,
    },
)

_RESERVED = ("rpc-", "x-", "CC", "BCC")
#: The application's own headers of a call.
application_headers = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: not name.startswith(_RESERVED)), _values, max_size=3
)
