"""Big-endian numbers out of bytes, as many as are needed at once: for what runs for every frame.

Each is there twice. Arithmetic is what mypyc makes fast, as nothing has to be boxed; where Python is interpreted,
`struct` is faster, and takes its place. Whoever calls has looked at the length.
"""

from __future__ import annotations

import struct


def read_frame_head(data: bytes, at: int) -> tuple[int, int, int]:
    """The type, the channel and the size of a frame [AMQP 0-9-1, 4.2.3]."""
    return data[at], data[at + 1] << 8 | data[at + 2], _u32(data, at + 3)


def read_u32(data: bytes, at: int) -> tuple[int]:
    """A number of 4 bytes."""
    return (_u32(data, at),)


def read_u64(data: bytes, at: int) -> tuple[int]:
    """A number of 8 bytes."""
    return (_u32(data, at) << 32 | _u32(data, at + 4),)


def read_tag_and_flag(data: bytes, at: int) -> tuple[int, int]:
    """A number of 8 bytes and one of 1, as they stand in deliveries and acks."""
    return _u32(data, at) << 32 | _u32(data, at + 4), data[at + 8]


def _u32(data: bytes, at: int) -> int:
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


#: The interpreted ones, by name.
BY_STRUCT = {
    "read_frame_head": struct.Struct(">BHI").unpack_from,
    "read_u32": struct.Struct(">I").unpack_from,
    "read_u64": struct.Struct(">Q").unpack_from,
    "read_tag_and_flag": struct.Struct(">QB").unpack_from,
}
#: The others.
BY_ARITHMETIC = (read_frame_head, read_u32, read_u64, read_tag_and_flag)
if __file__.endswith(".py"):
    globals().update(BY_STRUCT)
