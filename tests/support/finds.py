"""How state machines are shown to find what is wrong, when it is put there."""

from collections.abc import Callable

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
