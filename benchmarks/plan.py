"""What is measured: the subjects, their servers, and the cases of a run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from benchmarks.procs import ROOT

ECHO = ROOT / "build" / "bench" / "echo"
WINDOWS = (1, 10, 100, 1000)
#: All that Warren adds to a request, in the letters of the C program.
LIKE_WARREN = "cmthb2"
LARGE = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Volume:
    """How much of everything."""

    rounds: int = 5
    seconds: float = 1.2
    warmup: float = 0.3
    calls: int = 1_000_000
    windows: tuple[int, ...] = WINDOWS
    in_flight: int = 20_000  # calls held open, for memory
    repeats: int = 3  # of what is not part of the rounds
    patience: float = 90.0  # seconds that may go into repeating what other programs disturbed


FULL = Volume()
QUICK = Volume(rounds=2, seconds=0.6, warmup=0.2, windows=(1, 100), in_flight=5_000, repeats=1, patience=15.0)
SMOKE = Volume(rounds=1, seconds=0.5, warmup=0.05, calls=50, windows=(10,), in_flight=500, repeats=1, patience=0.0)


@dataclass(frozen=True, slots=True)
class Subject:
    """A client and the server it calls."""

    title: str
    server: str
    client: tuple[str, ...]
    windows: tuple[int, ...] = ()  # of the scenario echo: the run's, unless given
    size: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement of each round. An open loop has a rate: ``open`` for half of Warren's, ``open-half`` its own."""

    scenario: str
    subject: str
    window: int
    rate: float = 0.0


def _python(module: str, *mode: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.peers.{module}", *(("--mode", *mode) if mode else ()))


def _c(features: str = "") -> tuple[str, ...]:
    return (str(ECHO), *(("-x", features) if features else ()))


#: Server commands, and how many processes of each. All of them serve a queue of the key's name.
SERVERS: dict[str, tuple[tuple[str, ...], int]] = {
    "c": (_c(), 1),
    "c-safe": (_c(LIKE_WARREN), 1),
    "warren": (_python("warren", "async"), 1),
    "warren-def": (_python("warren", "def"), 1),
    "warren-4": (_python("warren", "async"), 4),
    "warren-text": (_python("warren", "text"), 1),
    "warren-bytes": (_python("warren", "bytes"), 1),
    "tutorial": (_python("tutorial"), 1),
    "aio-pika": (_python("aio_pika_rpc"), 1),
    "faststream": (_python("faststream_rpc"), 1),
    "grpc": (_python("grpc_aio"), 1),
}

_ASYNC = _python("warren", "async")
_THREADS = _python("warren", "threads")

SUBJECTS: dict[str, Subject] = {
    "c": Subject("C, librabbitmq", "c", _c()),
    "c-safe": Subject("C, with Warren's messages", "c-safe", _c(LIKE_WARREN)),
    "warren": Subject("Warren AsyncClient", "warren", _ASYNC),
    "warren-def": Subject("Warren AsyncClient, def handler", "warren-def", _ASYNC),
    "warren-client": Subject("Warren Client", "warren", _THREADS, (1,)),
    "warren-threads": Subject("Warren Client, 16 threads", "warren", _THREADS, (16,)),
    "warren-submit": Subject("Warren Client.submit", "warren", _python("warren", "submit"), (100,)),
    "tutorial": Subject("Pika, tutorial six", "tutorial", _python("tutorial"), (1,)),
    "aio-pika": Subject("aio-pika RPC", "aio-pika", _python("aio_pika_rpc")),
    "faststream": Subject("FastStream request", "faststream", _python("faststream_rpc")),
    "grpc": Subject("gRPC asyncio, no broker", "grpc", _python("grpc_aio")),
    # for the other scenarios
    "warren-4": Subject("Warren, 4 worker processes", "warren-4", _ASYNC),
    "c-large": Subject("C, librabbitmq", "c", _c(), size=LARGE),
    "warren-text": Subject("Warren, JSON text", "warren-text", _python("warren", "text"), size=LARGE),
    "warren-bytes": Subject("Warren, msgpack bytes", "warren-bytes", _python("warren", "bytes"), size=LARGE),
    "c-to-warren": Subject("C client, Warren server", "warren", _c(LIKE_WARREN)),
    "warren-to-c": Subject("Warren client, C server", "c-safe", _ASYNC),
}

ECHOES = tuple(list(SUBJECTS)[: list(SUBJECTS).index("warren-4")])

#: The features of Warren's messages, each by itself, in the letters of the C program.
_ANATOMY = {
    "c-confirms": ("C with confirms", "c"),
    "c-mandatory": ("C with mandatory", "m"),
    "c-expiration": ("C with expiration", "t"),
    "c-headers": ("C with deadline headers", "h"),
    "c-bounce": ("C with the bounce", "b"),
    "c-channel": ("C with a channel for publishing", "2"),
}
for _name, (_title, _features) in _ANATOMY.items():
    SERVERS[_name] = (_c(_features), 1)
    SUBJECTS[_name] = Subject(_title, _name, _c(_features))

#: Subjects and windows of the other closed loops.
_OTHERS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "large": (("c-large", (8,)), ("warren-text", (8,)), ("warren-bytes", (8,))),
    "workers": (("warren", (100,)), ("warren-4", (100,))),
    "flight": (("warren", (100, 10_000)),),
    "cross": (("c-to-warren", (1, 100)), ("warren-to-c", (1, 100))),
    "anatomy": tuple((name, (1, 100)) for name in ("c", *_ANATOMY, "c-safe")),
}
#: In the order of the report; anatomy only when asked for.
SCENARIOS = ("echo", "large", "workers", "flight", "cross", "open", "footprint", "anatomy")
DEFAULT_SCENARIOS = tuple(name for name in SCENARIOS if name != "anatomy")

_NEEDS = {"aio-pika": "aio_pika", "faststream": "faststream", "grpc": "grpc"}


def chosen(only: Sequence[str]) -> list[str]:
    """The subjects whose name, or its first part, was given; all of them without a choice.

    Raises:
        ValueError: a name that no subject has.
    """
    for name in only:
        if not any(_is_of(subject, name) for subject in SUBJECTS):
            raise ValueError(f"no subject {name!r}; there are {', '.join(ECHOES)}")
    return [subject for subject in SUBJECTS if not only or any(_is_of(subject, name) for name in only)]


def _is_of(subject: str, name: str) -> bool:
    return subject == name or subject.startswith(f"{name}-")


def missing(subject: str, *, have_c: bool) -> str | None:
    """What is not installed and needed for a subject."""
    commands = (SUBJECTS[subject].client[0], SERVERS[SUBJECTS[subject].server][0][0])
    if not have_c and str(ECHO) in commands:
        return "librabbitmq-dev"
    package = _NEEDS.get(subject)
    return package if package and importlib.util.find_spec(package) is None else None


def cases(volume: Volume, scenarios: Sequence[str], subjects: Sequence[str]) -> list[Case]:
    """The closed loops of a round: those with the same window stand together, so that they meet the same machine."""
    found = []
    if "echo" in scenarios:
        windows = sorted({*volume.windows, *(w for s in ECHOES for w in SUBJECTS[s].windows)})
        for window in windows:
            of_window = [name for name in ECHOES if window in (SUBJECTS[name].windows or volume.windows)]
            of_window += ["c"] if window == 16 else []  # beside the 16 threads
            found += [Case("echo", name, window) for name in of_window if name in subjects]
    for scenario, entries in _OTHERS.items():
        if scenario in scenarios:
            found += [Case(scenario, name, w) for name, windows in entries if name in subjects for w in windows]
    if "open" in scenarios and "echo" not in scenarios:
        found += [Case("echo", name, 100) for name in ("c", "warren") if name in subjects]
    return found


def client_command(case: Case, volume: Volume, url: str, address: str) -> tuple[str, ...]:
    """The command that makes one measurement."""
    subject = SUBJECTS[case.subject]
    amounts = {
        "window": case.window,
        "seconds": volume.seconds,
        "calls": volume.calls,
        "size": subject.size,
        "rate": case.rate,
        "warmup": volume.warmup,
    }
    return _with_options(subject.client, "call", url, address, amounts)


def server_command(key: str, url: str) -> tuple[str, ...]:
    """The command of one process of a server; it prefetches as much as the largest window asks for."""
    return _with_options(SERVERS[key][0], "serve", url, f"bench.{key}", {"window": max(WINDOWS)})


_C_OPTIONS = {"window": "-w", "seconds": "-s", "calls": "-n", "size": "-b", "rate": "-r", "warmup": "-u"}


def _with_options(
    command: tuple[str, ...], verb: str, url: str, address: str, amounts: dict[str, float]
) -> tuple[str, ...]:
    if command[0] == str(ECHO):
        where = ("-p", str(urlsplit(url).port or 5672), "-q", address)
        options = [word for name, value in amounts.items() for word in (_C_OPTIONS[name], str(value))]
    else:
        where = ("--url", url, "--address", address)
        options = [word for name, value in amounts.items() for word in (f"--{name}", str(value))]
    return (*command, verb, *where, *options)


def with_rounds(volume: Volume, rounds: int | None) -> Volume:
    """The same volume with another number of rounds."""
    return volume if rounds is None else replace(volume, rounds=rounds)
