"""All commands: where each is, and what it does."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command is, and what it does. Without a module it is a group; without a summary it is not shown."""

    module: str
    summary: str


#: All commands. Only the module of the one that is asked for is loaded: `warren broker` has no use for a
#: client.
COMMANDS = {
    "": Command("", "RPC over RabbitMQ: serve Python functions, and call them."),
    "serve": Command("serve", "Serve services, in one worker process or several, until told to stop."),
    "worker": Command("serve", ""),
    "call": Command("call", "Call a method and print its result."),
    "bench": Command("bench", "Call a method as fast as it goes, or at a fixed rate, and print rate and latencies."),
    "echo": Command("bench", ""),
    "ls": Command("look", "List the services that run, with what they did and what waits for them."),
    "info": Command("look", "Show what a service offers, or one of its methods in full."),
    "ping": Command("look", "Ask processes whether they answer, and how soon."),
    "health": Command("look", "Ask processes whether they are healthy; the exit code tells."),
    "stats": Command("numbers", "Show what services did, by method and caller: counts, failures, waits, durations."),
    "top": Command("numbers", "Watch which methods are busy, slow or failing."),
    "calls": Command("calls", "List the calls that run or wait in processes, oldest first."),
    "where": Command("calls", "Find a call: in a worker's hands, or in a dead queue."),
    "cancel": Command("calls", "Cancel a call, whoever has made it."),
    "drain": Command("drain", "Let processes finish what they have, and take no more."),
    "resume": Command("drain", "Let processes take requests again."),
    "concurrency": Command("tune", "Let processes serve so many calls of a service at a time, until they end."),
    "log-level": Command("tune", "Let a logger of processes say more or less, until they end."),
    "queues": Command("queues", "Show what waits in the queues of all services, who takes it, and what died."),
    "graph": Command("graph", "Draw who calls whom, as it was seen, or as the code says."),
    "schema": Command("describe", "Print JSON Schemas of a service's methods, or an AsyncAPI document."),
    "stubs": Command("describe", "Print a typed module with a stub for each method of a service."),
    "dead": Command("dead", "Requests that could not be handled: count, look at, try again, or drop them."),
    "dead count": Command("dead", "Count what is in the dead queues of services."),
    "dead list": Command("dead", "Show what is in the dead queue, oldest first."),
    "dead show": Command(
        "dead", "Show one message: what it ended in, properties, headers and the beginning of the body, escaped."
    ),
    "dead retry": Command(
        "dead", "Publish a request to its service once more, as a cast, and take it off the dead queue."
    ),
    "dead drop": Command("dead", "Remove a message for good."),
    "dashboard": Command("dashboard", "See in a browser what runs: services, calls, failures, who calls whom."),
    "broker": Command("broker", "Run a small broker for development, in memory: no disk, no cluster."),
    "broker status": Command("broker", "List connections, queues and consumers of a broker running on this machine."),
    "completion": Command("completion", "Print a script that completes commands and options in a shell."),
    "demo": Command("demo", "See calls, a mistake and a killed worker; needs no RabbitMQ."),
}


#: What other tools call what these do, by the group that it is typed in: too far from their names for spelling.
MEANT: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {
    "": {
        ("ps", "status", "processes"): ("ls", "ping", "health"),
        ("list", "services", "dir"): ("ls",),
        ("describe", "show", "inspect", "methods", "get"): ("info", "schema", "stubs"),
        ("run", "start", "up", "server", "workers"): ("serve",),
        ("send", "invoke", "request", "rpc", "exec", "stream"): ("call",),
        ("cast", "publish"): ("call --cast",),
        ("stop", "shutdown", "pause", "quiesce"): ("drain",),
        ("kill", "abort", "revoke"): ("cancel", "drain"),
        ("unpause", "continue"): ("resume",),
        ("scale",): ("concurrency", "serve --workers"),
        ("log", "logs", "logging"): ("log-level",),
        ("metrics", "statistics", "usage"): ("stats", "top"),
        ("watch", "monitor", "htop"): ("top", "dashboard"),
        ("ui", "web", "admin", "flower"): ("dashboard",),
        ("jobs", "tasks", "active", "running", "inflight"): ("calls",),
        ("find", "trace", "search"): ("where", "calls"),
        ("dlq", "failed", "failures", "dead-letters"): ("dead list", "dead count"),
        ("retry", "requeue", "replay"): ("dead retry",),
        ("purge", "delete", "rm"): ("dead drop",),
        ("topology", "map", "diagram"): ("graph",),
        ("openapi", "asyncapi", "swagger", "jsonschema"): ("schema",),
        ("generate", "codegen", "client"): ("stubs",),
        ("check", "alive", "ready"): ("health", "ping"),
        ("perf", "load", "loadtest"): ("bench",),
        ("rabbitmq", "mq"): ("broker",),
        ("init", "example", "quickstart", "tutorial"): ("demo",),
        ("help",): ("--help",),
        ("version",): ("--version",),
    },
    "dead": {
        ("ls",): ("list",),
        ("info", "cat", "view", "get", "describe"): ("show",),
        ("requeue", "replay", "resend"): ("retry",),
        ("rm", "remove", "delete", "purge", "clear"): ("drop",),
    },
    "broker": {("ls", "ps", "list", "info", "queues"): ("status",)},
}


def meant(group: str, word: str) -> tuple[str, ...]:
    """The commands that do what other tools call so."""
    return next((ours for theirs, ours in MEANT.get(group, {}).items() if word.lower() in theirs), ())


def below(name: str) -> dict[str, str]:
    """The commands of a group, and what they do."""
    depth, parts = len(name.split()), {other: other.split() for other in COMMANDS if COMMANDS[other].summary}
    return {
        words[-1]: COMMANDS[other].summary
        for other, words in parts.items()
        if len(words) == depth + 1 and words[:depth] == name.split()
    }
