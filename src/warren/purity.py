"""Which code runs: the hot path as mypyc compiled it, where the installed package brings that, or plain Python.

With ``WARREN_PURE=1`` in the environment the sources run in any case: to step through them, to replace parts of them,
to see whether a fault is the compiler's. `warren` imports this before anything else, and it acts when it is imported.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType

#: A module of those that are compiled, and compiled or not with all others.
_ONE_OF_THEM = "warren.amqp.splitter"


class Sources:
    """Finds Warren's modules as sources only, whatever stands beside them. Goes into `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The source of a module of Warren's; None for any other, which others find."""
        if not name.startswith("warren."):
            return None
        found = (FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name) for folder in path or ())
        return next((spec for spec in found if spec), None)


def compiled() -> bool:
    """Whether the compiled modules run."""
    from importlib.util import find_spec  # of no use to a program that does not ask

    spec = find_spec(_ONE_OF_THEM)
    return spec is not None and not str(spec.origin).endswith(tuple(SOURCE_SUFFIXES))


if os.environ.get("WARREN_PURE", "0") not in ("", "0"):
    sys.meta_path.insert(0, Sources)
