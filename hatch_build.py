"""Builds the wheel, with the hot path compiled where that is possible. Hatchling finds it in pyproject.toml.

``WARREN_PURE=1`` builds a wheel of plain Python for every interpreter; ``WARREN_PURE=0`` makes an error of whatever
prevents compiling. Else that ends in a warning, and a plain wheel. See docs/adr/0037.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import hot


class HotPath(BuildHookInterface):  # type: ignore[type-arg]  # it is generic in what only hatchling's own hooks set
    def dependencies(self) -> list[str]:
        """What compiling needs; nothing where there will be none, as pip would download it."""
        if _pure() or hot.why_not():
            return []
        return [*hot.COMPILERS, *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the wheel; called before it is put together. An editable install has the sources only."""
        if version == "editable" or _pure():
            return
        missing = hot.why_not() or self._compile(build_data)
        if missing and os.environ.get("WARREN_PURE") == "0":
            raise RuntimeError(f"WARREN_PURE=0 demands a compiled wheel of Warren, but {missing}")
        if missing:
            self.app.display_warning(
                f"Warren's wheel will be plain Python, and about half as fast as a compiled one: {missing}. "
                "Set WARREN_PURE=1 if that is what you want, or WARREN_PURE=0 to make it an error."
            )

    def _compile(self, build_data: dict[str, Any]) -> str | None:
        """Compile into the wheel; says what went wrong, if something did, and the wheel is as it was."""
        self._folder = tempfile.TemporaryDirectory(prefix="warren-wheel-")
        folder = Path(self._folder.name)
        built = hot.build(folder, "compile")
        if built.returncode:
            return f"mypyc or the C compiler failed:\n{built.stdout[-2000:]}\n{built.stderr[-2000:]}\n"
        build_data["force_include"].update({str(path): where for path, where in hot.compiled(folder).items()})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        return None

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Throw away what was compiled: it is in the wheel."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _pure() -> bool:
    return os.environ.get("WARREN_PURE", "0") not in ("", "0")
