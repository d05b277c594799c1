"""Wrong usage in words for people: Typer passes on what Pydantic says of a value."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

_NOISE = "Value error, "


class PlainGroup(TyperGroup):
    """A group of commands whose errors of usage are without Pydantic's own words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix(_NOISE)
            raise
