"""``python -m benchmarks.micro.loop [STEP TIMES]``: a process for valgrind to count. Imports as little as it can."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from benchmarks.micro.cases import CASES


def main() -> None:
    """Set all steps up, so that every process does the same but for the loop, then run one of them."""
    with ExitStack() as stack:
        steps = {name: stack.enter_context(case.ready()) for name, case in CASES.items()}
        if sys.argv[1:]:
            step = steps[sys.argv[1]]
            for _ in range(int(sys.argv[2])):
                step()


if __name__ == "__main__":
    main()
