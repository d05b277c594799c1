"""Numbers out of bytes: by arithmetic, as compiled code does it, and by struct."""

import os

from warren.amqp.numbers import BY_ARITHMETIC, BY_STRUCT


def test_arithmetic_finds_what_struct_finds() -> None:
    data = os.urandom(64)
    for function in BY_ARITHMETIC:
        for at in range(40):
            assert function(data, at) == BY_STRUCT[function.__name__](data, at)
