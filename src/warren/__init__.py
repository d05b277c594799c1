"""Warren: RPC over RabbitMQ. See the README, and `Service`, `Client`, `AsyncClient` to begin with.

What is offered here is loaded when it is first asked for: `warren --help` has no use for a client, nor a worker, which
would wait for it at each start. Errors are there at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from warren import purity  # before all others, as it says how they are found
from warren.errors import CallError as CallError
from warren.errors import Cancelled as Cancelled
from warren.errors import Code as Code
from warren.errors import DeadlineExceeded as DeadlineExceeded
from warren.errors import Execution as Execution
from warren.errors import InvalidArgument as InvalidArgument
from warren.errors import LifespanError as LifespanError
from warren.errors import MethodNotFound as MethodNotFound
from warren.errors import Origin as Origin
from warren.errors import Overloaded as Overloaded
from warren.errors import PermissionDenied as PermissionDenied
from warren.errors import RemoteError as RemoteError
from warren.errors import Unavailable as Unavailable
from warren.errors import WorkerLost as WorkerLost
from warren.version import __version__ as __version__

if TYPE_CHECKING:
    #: Whether the modules run that mypyc compiled, or plain Python.
    compiled: bool

    from warren.client.async_client import AsyncClient as AsyncClient
    from warren.client.batches import Outcome as Outcome
    from warren.client.batches import star as star
    from warren.client.blocking import Client as Client
    from warren.client.chain import ClientCall as ClientCall
    from warren.client.gathering import Answer as Answer
    from warren.client.gathering import Told as Told
    from warren.client.pipeline import Pipeline as Pipeline
    from warren.client.streams import AsyncStream as AsyncStream
    from warren.client.streams import BlockingStream as BlockingStream
    from warren.connection.settings import ConnectionOptions as ConnectionOptions
    from warren.connection.settings import Secret as Secret
    from warren.protocol.progress import Progress as Progress
    from warren.server.context import CurrentCall as CurrentCall
    from warren.server.context import RefusedCall as RefusedCall
    from warren.server.context import current_call as current_call
    from warren.server.dependencies import provided as provided
    from warren.server.methods import remote as remote
    from warren.server.server import Server as Server
    from warren.server.service import Service as Service
else:
    # The same for the interpreter. Type checkers would take `__getattr__` for a promise that every name is there.
    _HOMES = {
        "Answer": "warren.client.gathering",
        "AsyncClient": "warren.client.async_client",
        "AsyncStream": "warren.client.streams",
        "BlockingStream": "warren.client.streams",
        "Client": "warren.client.blocking",
        "ClientCall": "warren.client.chain",
        "Outcome": "warren.client.batches",
        "Pipeline": "warren.client.pipeline",
        "star": "warren.client.batches",
        "ConnectionOptions": "warren.connection.settings",
        "CurrentCall": "warren.server.context",
        "current_call": "warren.server.context",
        "RefusedCall": "warren.server.context",
        "Secret": "warren.connection.settings",
        "Progress": "warren.protocol.progress",
        "provided": "warren.server.dependencies",
        "remote": "warren.server.methods",
        "Server": "warren.server.server",
        "Service": "warren.server.service",
        "Told": "warren.client.gathering",
    }

    #: For ``from warren import *``, which would give only what is loaded already.
    __all__ = list(_HOMES)
    __all__ += [name for name, value in globals().items() if getattr(value, "__module__", "") == CallError.__module__]

    def __getattr__(name: str) -> Any:
        if name == "compiled":
            return purity.compiled()
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES, "compiled"})
