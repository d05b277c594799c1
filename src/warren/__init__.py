"""Warren: RPC over RabbitMQ. See the README, and `Service`, `Client`, `AsyncClient` to begin with.

The names below are loaded when they are asked for: ``warren broker`` and the embedded broker need nothing of the
client, which takes three times as long to load as they do. `__init__.pyi` has the same names for type checkers; a
test compares the two.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Client": "blocking",
    "AsyncClient": "client",
    "CurrentCall": "context",
    "current_call": "context",
    "CallError": "errors",
    "Cancelled": "errors",
    "Code": "errors",
    "DeadlineExceeded": "errors",
    "Execution": "errors",
    "InvalidArgument": "errors",
    "MethodNotFound": "errors",
    "Origin": "errors",
    "Overloaded": "errors",
    "PermissionDenied": "errors",
    "RemoteError": "errors",
    "Unavailable": "errors",
    "WorkerLost": "errors",
    "Server": "server",
    "Service": "service",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'warren' has no attribute {name!r}")
    value: object = getattr(import_module(f"warren.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
