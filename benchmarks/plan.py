"""What is measured: the subjects, their servers, and the cases of a run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from benchmarks.brokers import nats_command
from benchmarks.builds import LANDED
from benchmarks.procs import ROOT

ECHO = ROOT / "build" / "bench" / "echo"
WINDOWS = (1, 10, 100, 1000)
#: All that Warren adds to a request, in the letters of the C program; and what it adds where a worker of the queue has
#: said that nothing is refused.
LIKE_WARREN, LEAN = "cmthb2", "th2"
LARGE = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Volume:
    """How much of everything."""

    rounds: int = 7
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
class Served:
    """A server: what its processes run and how many they are, with which Warren (see `builds`), on which broker."""

    command: tuple[str, ...]
    processes: int = 1
    build: str = ""
    broker: str = "rabbitmq"


@dataclass(frozen=True, slots=True)
class Subject:
    """A client and the server it calls."""

    title: str
    server: str
    client: tuple[str, ...]
    windows: tuple[int, ...] = ()  # of the scenario echo: the run's, unless given
    size: int = 0
    build: str = ""  # with which Warren its client runs


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


_SHIPPED = "shipped"  # the build that users get: compiled, where there is a compiler

#: All of them serve a queue, or a subject, of the key's name.
SERVERS: dict[str, Served] = {
    "c": Served(_c()),
    "c-safe": Served(_c(LIKE_WARREN)),
    "c-lean": Served(_c(LEAN)),
    "warren": Served(_python("warren", "async"), build=_SHIPPED),
    "warren-def": Served(_python("warren", "def"), build=_SHIPPED),
    "warren-uvloop": Served(_python("warren", "uvloop"), build=_SHIPPED),
    "warren-4": Served(_python("warren", "async"), processes=4, build=_SHIPPED),
    "warren-text": Served(_python("warren", "text"), build=_SHIPPED),
    "warren-bytes": Served(_python("warren", "bytes"), build=_SHIPPED),
    "warren-items": Served(_python("warren", "items"), build=_SHIPPED),
    "warren-stages": Served(_python("warren", "stages"), build=_SHIPPED),
    "warren-octets": Served(_python("warren", "octets"), build=_SHIPPED),
    "c-octets": Served((*_c("l"), "-b", str(LARGE))),
    "tutorial": Served(_python("tutorial")),
    "nats": Served(_python("nats_py"), broker="nats"),
    "aio-pika": Served(_python("aio_pika_rpc")),
    "faststream": Served(_python("faststream_rpc")),
    "grpc": Served(_python("grpc_aio")),
}

_ASYNC = _python("warren", "async")
_THREADS = _python("warren", "threads")
_SUBMIT = _python("warren", "submit")

#: Those of the scenario echo.
_ECHOES: dict[str, Subject] = {
    "c": Subject("C, librabbitmq", "c", _c()),
    "c-safe": Subject("C, with all of Warren's messages", "c-safe", _c(LIKE_WARREN)),
    "c-lean": Subject("C, with Warren's lean messages", "c-lean", _c(LEAN)),
    "warren": Subject("Warren AsyncClient", "warren", _ASYNC, build=_SHIPPED),
    "warren-uvloop": Subject(
        "Warren AsyncClient, uvloop", "warren-uvloop", _python("warren", "uvloop"), build=_SHIPPED
    ),
    "warren-def": Subject("Warren AsyncClient, def handler", "warren-def", _ASYNC, build=_SHIPPED),
    "warren-client": Subject("Warren Client", "warren", _THREADS, (1,), build=_SHIPPED),
    "warren-threads": Subject("Warren Client, 16 threads", "warren", _THREADS, (16,), build=_SHIPPED),
    "warren-submit": Subject("Warren Client.submit", "warren", _SUBMIT, (100,), build=_SHIPPED),
    "tutorial": Subject("Pika, tutorial six", "tutorial", _python("tutorial"), (1,)),
    "nats": Subject("nats-py, on a NATS server", "nats", _python("nats_py")),
    "aio-pika": Subject("aio-pika RPC", "aio-pika", _python("aio_pika_rpc")),
    "faststream": Subject("FastStream request", "faststream", _python("faststream_rpc")),
    "grpc": Subject("gRPC asyncio, no broker", "grpc", _python("grpc_aio")),
}

_LARGE: dict[str, Subject] = {
    "c-large": Subject("C, librabbitmq", "c", _c(), size=LARGE),
    "warren-text": Subject("Warren, JSON text", "warren-text", _python("warren", "text"), size=LARGE, build=_SHIPPED),
    "warren-bytes": Subject(
        "Warren, msgpack bytes", "warren-bytes", _python("warren", "bytes"), size=LARGE, build=_SHIPPED
    ),
}
#: Streams: each item counts as a call.
_STREAMS: dict[str, Subject] = {
    "warren-items": Subject("Warren, stream of numbers", "warren-items", _python("warren", "items"), build=_SHIPPED),
    "grpc-items": Subject("gRPC asyncio, stream of numbers", "grpc", _python("grpc_aio", "items")),
    "warren-octets": Subject(
        "Warren, stream of 1 MiB", "warren-octets", _python("warren", "octets"), size=LARGE, build=_SHIPPED
    ),
    "c-octets": Subject("C, 1 MiB as reply", "c-octets", _c("l"), size=LARGE),
}
_STAGES: dict[str, Subject] = {
    "warren-pipeline": Subject(
        "Warren, pipeline of three stages", "warren-stages", _python("warren", "pipeline"), build=_SHIPPED
    ),
    "warren-three": Subject("Warren, three calls", "warren-stages", _python("warren", "three"), build=_SHIPPED),
}
_OTHER: dict[str, Subject] = {
    "warren-4": Subject("Warren, 4 worker processes", "warren-4", _ASYNC, build=_SHIPPED),
    "c-to-warren": Subject("C client, Warren server", "warren", _c(LIKE_WARREN)),
    "warren-to-c": Subject("Warren client, C server", "c-safe", _ASYNC, build=_SHIPPED),
}


def _with_build(build: str, words: str, subject: Subject, windows: tuple[int, ...] = ()) -> Subject:
    """The same with another build on both sides."""
    server = f"{build}:{subject.server}"
    SERVERS[server] = replace(SERVERS[subject.server], build=build)
    title = f"{subject.title}, {words}"
    return replace(subject, title=title, server=server, build=build, windows=windows or subject.windows)


def _pure(subjects: dict[str, Subject]) -> dict[str, Subject]:
    """The same with the tree as it is."""
    ours = {name: subject for name, subject in subjects.items() if subject.build}
    return {name.replace("warren", "warren-pure"): _with_build("pure", "pure", ours[name]) for name in ours}


_ECHOES["warren-pure"] = _with_build("pure", "pure", _ECHOES["warren"], (1, 100))
_ECHOES["warren-pure-def"] = _with_build("pure", "pure", _ECHOES["warren-def"], (100,))
_ECHOES |= _pure({name: _ECHOES[name] for name in ("warren-client", "warren-threads", "warren-submit")})
_ECHOES["warren-landed"] = _with_build("landed", f"commit {LANDED}", _ECHOES["warren"], (1, 100))

_LARGE |= _pure(_LARGE)
_OTHER |= _pure({"warren-4": _OTHER["warren-4"]})

SUBJECTS: dict[str, Subject] = {**_ECHOES, **_OTHER, **_LARGE, **_STREAMS, **_STAGES}
ECHOES = tuple(_ECHOES)

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
    SERVERS[_name] = Served(_c(_features))
    SUBJECTS[_name] = Subject(_title, _name, _c(_features))

#: Subjects and windows of the other closed loops.
_OTHERS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "large": tuple((name, (8,)) for name in _LARGE),
    "stream": (*((name, (1,)) for name in ("warren-items", "grpc-items", "warren-octets")), ("c-octets", (1, 8))),
    "stages": tuple((name, (1, 100)) for name in _STAGES),
    "workers": tuple((name, (100,)) for name in ("warren", "warren-4", "warren-pure", "warren-pure-4")),
    "flight": (("warren", (100, 10_000)), ("warren-pure", (100, 10_000))),
    "cross": (("c-to-warren", (1, 100)), ("warren-to-c", (1, 100))),
    "anatomy": tuple((name, (1, 100)) for name in ("c", *_ANATOMY, "c-safe")),
}
#: In the order of the report; anatomy only when asked for.
SCENARIOS = ("echo", "large", "stream", "stages", "workers", "flight", "cross", "open", "footprint", "anatomy")
DEFAULT_SCENARIOS = tuple(name for name in SCENARIOS if name != "anatomy")

_NEEDS = {
    "aio-pika": "aio_pika",
    "faststream": "faststream",
    "grpc": "grpc",
    "grpc-items": "grpc",
    "nats": "nats",
    "warren-uvloop": "uvloop",
}


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


def builds(subjects: Sequence[str]) -> set[str]:
    """The builds of Warren that subjects run, client or server."""
    chosen = [SUBJECTS[name] for name in subjects]
    return {build for subject in chosen for build in (subject.build, SERVERS[subject.server].build)} - {""}


def missing(subject: str, *, have_c: bool, builds_missing: Mapping[str, str]) -> str | None:
    """What is not there and needed for a subject."""
    commands = (SUBJECTS[subject].client[0], SERVERS[SUBJECTS[subject].server].command[0])
    if not have_c and str(ECHO) in commands:
        return "librabbitmq-dev"
    if SERVERS[SUBJECTS[subject].server].broker == "nats" and nats_command() is None:
        return "nats-server"
    package = _NEEDS.get(subject)
    if package and importlib.util.find_spec(package) is None:
        return package
    return next((builds_missing[build] for build in builds([subject]) if build in builds_missing), None)


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
    return _with_options(SERVERS[key].command, "serve", url, address_of(key), {"window": max(WINDOWS)})


def address_of(key: str) -> str:
    """The queue, or the subject, that a server serves."""
    return f"bench.{key.replace(':', '-')}"


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
