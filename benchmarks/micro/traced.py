"""``python -m benchmarks.micro.traced``: the modules of Warren that run while calls are made and served."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import warren
from benchmarks.micro.cases import CASES

_PACKAGE = Path(warren.__file__).parent
#: From end to end, so that nothing that a message goes through is missing.
_STEPS = ("call_async", "answer_async", "serve_in_thread", "hand_over")


def main() -> None:
    """Run each step until all is made that is made once; watch it then."""
    seen: set[str] = set()

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        seen.add(frame.f_code.co_filename)

    with ExitStack() as stack:
        steps = [stack.enter_context(CASES[name].ready()) for name in _STEPS]
        for step in steps:
            step()
        threading.setprofile(watch)
        sys.setprofile(watch)
        for step in steps:
            step()
        sys.setprofile(None)
        threading.setprofile(None)
        ran = [Path(name) for name in list(seen)]
    print(*sorted(path.relative_to(_PACKAGE).with_suffix("").as_posix() for path in ran if _PACKAGE in path.parents))


if __name__ == "__main__":
    main()
