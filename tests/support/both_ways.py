"""Tests of compiled modules: with ``WARREN_COMPILED`` in the environment, what needs plain Python is left out.

That variable names the folder that the compiled package is in; `tests/compiled.py`, run first, holds that it is tested.
"""

import os

import pytest

_CHANNEL = "its channel is a model's, and compiled code takes nothing but a HotChannel"
_REPLACED = "it puts a function in the place of a compiled method, which compiled callers do not look up"
_LIVES = "tests/contract/test_life_cycles.py::"
_DRAIN = "tests/faults/test_drain.py::"
_OUTPUT = "tests/unit/connection/test_output.py::"
_POST = "tests/unit/server/test_post.py::"
#: What runs on plain Python only, and why: files and tests.
PURE_ONLY = {
    "tests/property/test_client_machine.py": _CHANNEL,
    "tests/property/test_client_machine_finds.py": _CHANNEL,
    "tests/property/test_stream_machine.py": _CHANNEL,
    "tests/property/test_stream_machine_finds.py": _CHANNEL,
    "tests/property/test_upload_machine.py": _CHANNEL,
    "tests/property/test_upload_machine_finds.py": _CHANNEL,
    "tests/property/test_worker.py": _CHANNEL,
    "tests/property/test_worker_machine.py": _CHANNEL,
    "tests/property/test_worker_machine_finds.py": _CHANNEL,
    "tests/property/test_worker_stories.py": _CHANNEL,
    "tests/unit/client/test_lane.py": _CHANNEL,
    "tests/unit/client/test_replies.py": _CHANNEL,
    "tests/unit/server/test_onward.py": _CHANNEL,
    _POST + "test_a_queue_that_is_gone_or_another_one_now_is_no_longer_said_to_take_everything": _CHANNEL,
    "tests/unit/server/test_worker.py": _CHANNEL,
    "tests/unit/server/test_statistics.py": "its attempts are no Attempts, and end at a time of its own",
    "tests/contract/test_channel.py::test_a_round_trip_that_cannot_begin_fails_and_the_next_one_begins": _REPLACED,
    _OUTPUT + "test_a_body_that_there_is_no_room_for_ends_the_connection": _REPLACED,
    _OUTPUT + "test_output_that_cannot_be_handed_on_ends_the_connection": _REPLACED,
    _DRAIN + "test_a_stream_that_has_begun_and_cannot_be_handed_back_is_not_said_to_have_not_begun": _REPLACED,
    _LIVES + "test_a_client_that_is_closed_while_it_sets_up_leaves_no_reply_queue": _REPLACED,
}


def needs_pure_python(node: str) -> bool:
    """Whether a test, or all of its file, is in the list."""
    return node.partition("::")[0] in PURE_ONLY or node.partition("[")[0] in PURE_ONLY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "WARREN_COMPILED" not in os.environ:
        return
    out = [item for item in items if needs_pure_python(item.nodeid)]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)
