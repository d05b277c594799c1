"""Middleware around every call of a service. Start it first: ``warren serve auth_middleware:service``."""

import hmac
import os
from typing import Any

from warren import Client, CurrentCall, PermissionDenied, Service, current_call
from warren.middleware import Proceed

URL = os.environ.get("WARREN_URL", "amqp://localhost")
TOKEN = os.environ.get("VAULT_TOKEN", "open sesame")


async def authorise(call: CurrentCall, proceed: Proceed) -> Any:
    """What it raises is what the caller gets; what it returns is the result."""
    shown = str(call.headers.get("token", ""))
    if not hmac.compare_digest(shown.encode(), TOKEN.encode()):
        raise PermissionDenied(f"{call.method} needs a valid token")
    return await proceed()


service = Service("vault", middleware=[authorise])


@service.method
def unlock(door: str) -> str:
    return f"{door} is open, {current_call().caller}"


if __name__ == "__main__":
    with Client(URL, name="Ali Baba") as client:
        print(client.options(headers={"token": TOKEN}).call(unlock, "the cave"))
        try:
            client.call(unlock, "the cave")
        except PermissionDenied as error:
            print(f"{error.message} (the handler: {error.execution})")
