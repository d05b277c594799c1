"""Prometheus: metrics for programs that have a registry of their own. Needs the extra ``prometheus``::

    from warren.telemetry.prometheus import ClientMetrics, ServerMetrics

    metrics = ClientMetrics()
    client = AsyncClient(url, middleware=[metrics])
    metrics.watch(client)

    ServerMetrics(server)

`warren serve --http` shows those of its workers without this.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from warren.client.async_client import AsyncClient
from warren.client.blocking import Client
from warren.client.chain import ClientCall
from warren.errors import CallError, Code
from warren.histogram import Histogram
from warren.middleware import Proceed
from warren.server.server import Server
from warren.telemetry.measures import FAMILIES, Measures, of_client, of_server, samples

#: Methods that are counted by name; all others together.
MOST_METHODS = 1000
OTHERS = "others"
#: Calls of one method that are added up together.
_AT_ONCE = 1024

Key = tuple[str, str, str, str]


class _Metrics(Collector):
    """Measures as a registry wants them."""

    def __init__(self, prefix: str, registry: CollectorRegistry | None) -> None:
        self._names = [name for name in FAMILIES if name.startswith(prefix)]
        if registry is not None:
            registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """The names, which a registry compares with those that it has."""
        return [Metric(name, FAMILIES[name].help, FAMILIES[name].kind) for name in self._names]

    def collect(self) -> Iterable[Metric]:
        """What is measured now."""
        measures = self.measured()
        for metric in self.describe():
            for suffix, labels, value in samples(measures, metric.name):
                metric.add_sample(metric.name + suffix, dict(labels), value)
            yield metric

    def measured(self) -> Measures:
        """The values."""
        raise NotImplementedError


class ServerMetrics(_Metrics):
    """What servers of this process count anyway: nothing is counted twice, and nothing is paid for each call."""

    def __init__(self, *servers: Server, registry: CollectorRegistry | None = REGISTRY) -> None:
        """Show these servers; a `registry` of None is told nothing."""
        self._last: dict[Server, Measures] = {server: Measures() for server in servers}
        super().__init__("warren_server_", registry)

    def measured(self) -> Measures:
        """The values of all of them together; the last ones of a server whose event loop does not answer."""
        total = Measures()
        for server, last in self._last.items():
            with contextlib.suppress(TimeoutError):
                last = self._last[server] = of_server(server.statistics(), server.health())
            total.add(last)
        return total


class ClientMetrics(_Metrics):
    """Middleware that counts calls by code, and says how the clients stand that it watches."""

    def __init__(self, *, registry: CollectorRegistry | None = REGISTRY) -> None:
        """A `registry` of None is told nothing."""
        self._clients: weakref.WeakSet[AsyncClient | Client] = weakref.WeakSet()
        self._ended: dict[Key, list[float]] = {}
        self._durations: dict[Key, Histogram] = {}
        self._methods: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        super().__init__("warren_client_", registry)

    def watch(self, *clients: AsyncClient | Client) -> None:
        """Show how these stand, for as long as they exist; a view stands for its client."""
        self._clients.update(clients)

    async def __call__(self, call: ClientCall, proceed: Proceed) -> Any:
        """Around one call."""
        began, code = time.perf_counter(), Code.OK
        try:
            return await proceed()
        except CallError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        except BaseException:  # an error that travels as itself
            code = Code.UNKNOWN
            raise
        finally:
            self._note((call.service, call.method, call.kind, code), time.perf_counter() - began)

    def _note(self, key: Key, seconds: float) -> None:
        with self._lock:
            ended = self._ended.get(key)
            if ended is None:
                key = self._known(key)
                ended = self._ended.setdefault(key, [])
            ended.append(seconds)
            if len(ended) >= _AT_ONCE:
                self._add_up(key, ended)

    def _known(self, key: Key) -> Key:
        """The key, or that of all methods beyond the first ones: names may come from strangers."""
        method = key[:2]
        if method not in self._methods:
            if len(self._methods) >= MOST_METHODS:
                return (OTHERS, OTHERS, *key[2:])
            self._methods.add(method)
        return key

    def _add_up(self, key: Key, ended: list[float]) -> None:
        self._durations.setdefault(key, Histogram()).record_all(ended)
        ended.clear()

    def measured(self) -> Measures:
        """The values."""
        made = Measures()
        with self._lock:
            for key, ended in self._ended.items():
                self._add_up(key, ended)
            for (service, method, kind, code), durations in self._durations.items():
                of = {"service": service, "method": method, "kind": kind}
                made.number("warren_client_handled", durations.count, **of, code=code)
                made.duration("warren_client_handling_seconds", durations, **of)
        for client in list(self._clients):
            made.add(of_client(client.statistics))
        return made
