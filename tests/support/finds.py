"""How state machines are shown to find what is wrong, when it is put there."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest
from hypothesis import Phase, settings

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


class Faults(list[Fault]):
    """What is put there, one at a time; its decorator adds one."""

    def __call__(self, bring_in: Fault) -> Fault:
        self.append(bring_in)
        return bring_in


def search(examples: int, steps: int) -> settings:
    """The first failure is enough; the same examples each time."""
    return settings(
        phases=(Phase.generate,),
        max_examples=examples,
        stateful_step_count=steps,
        report_multiple_bugs=False,
        database=None,
        derandomize=True,
        deadline=None,
    )


def cases(faults: Iterable[Fault], late: Collection[str]) -> list[Any]:
    """For a test that has each of these faults found; what is found late is for the night."""
    names = {fault.__name__ for fault in faults}
    assert names >= {*late}, "these are no faults"
    return [
        pytest.param(fault, marks=[pytest.mark.nightly] if fault.__name__ in late else [], id=fault.__name__)
        for fault in faults
    ]
