"""Every message says what to do: each error that is raised, each ending of a call, each warning in the log.

The texts are read from the source, with ``…`` in place of what is filled in. A new one without advice fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "warren"
#: Rooms whose errors are about bytes of a peer, and end a connection: others tell them, with the address.
OF_PEERS = {"amqp", "broker"}

#: What a call ends in, and with which argument its message is given.
ENDINGS = {"conclude": 1, "Refuse": 1, "SetAside": 1, "Bounce": 1, "no_connection": 1}
WARNINGS = {"warning", "error"}

_VERBS = (
    "add|allow|ask|call|check|close|correct|create|declare|decorate|delete|encode|free|give|have|import|keep|look|make"
    "|mend|name|open|outlive|pass|put|raise|read|rename|renew|report|return|run|say|send|serve|slow down|start|take|try"
    "|use|wait|wrap|write|leave|ask|begin|remove|patch|let"
)
#: Something to do, what a right value is like, what there is to choose from, or what Warren does about it by itself.
ADVICE = re.compile(
    rf"(?:^|[:;,.(?] |\bor |\band |\bnot |\bso )(?:{_VERBS})\b|\bsay\b|\?|must |has to be"
    r"|is not one of|at most|did you mean|is not a (?:whole )?number|it has …|shows it|(?:log|stderr) (?:says|has)"
    r"|; (?:reconnecting|trying again|consuming again|opening another|taking another|rejecting|asking again)"
    r"|goes on|may still|instead",
    re.IGNORECASE,
)


class Text:
    """A message in the source."""

    def __init__(self, path: Path, line: int, kind: str, text: str) -> None:
        self.place = f"{path.relative_to(SOURCE)}:{line}"
        self.kind = kind
        self.text = text

    def __repr__(self) -> str:
        return f"{self.place} {self.kind}: {self.text}"


def texts(path: Path) -> Iterator[Text]:
    tree = ast.parse(path.read_text())
    known = _assigned(tree)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = known | _assigned(function)
            for node in ast.walk(function):
                if (found := _message(node)) is not None:
                    kind, argument = found
                    for text in _rendered(argument, inside):
                        yield Text(path, node.lineno, kind, text)  # type: ignore[attr-defined]


def _message(node: ast.AST) -> tuple[str, ast.expr] | None:
    """The kind of a message, and the expression that it is; None if there is none here."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        name = _name(node.exc.func)
        return None if name in ENDINGS or name == "ConnectFailed" else (name, node.exc.args[0])
    if not isinstance(node, ast.Call):
        return None
    name = _name(node.func)
    if name in ENDINGS and len(node.args) > ENDINGS[name]:
        return name, node.args[ENDINGS[name]]
    if (
        name in WARNINGS
        and isinstance(node.func, ast.Attribute)
        and _name(node.func.value) in ("log", "_log", "_trouble")
    ):
        return f"log.{name}", node.args[0]
    return None


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(node.value)
    return found


def _rendered(node: ast.expr, known: dict[str, list[ast.expr]], depth: int = 0) -> list[str]:
    """What a message may be; nothing where it is somebody else's text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(_part(part, known, depth) for part in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_rendered(side, known, depth) or ["…"] for side in (node.left, node.right))
        return [one + other for one in left for other in right]
    if isinstance(node, ast.IfExp):
        return _rendered(node.body, known, depth) + _rendered(node.orelse, known, depth)
    if isinstance(node, ast.Call) and (advice := _called(node)) != "…":
        return [advice]
    if isinstance(node, ast.Name) and depth < 3:
        return [text for value in known.get(node.id, ()) for text in _rendered(value, known, depth + 1)]
    return []


def _part(part: ast.expr, known: dict[str, list[ast.expr]], depth: int) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    return " or ".join(_rendered(part.value, known, depth + 1)) or _called(part.value)


def _called(node: ast.expr) -> str:
    """A function that writes the advice is named."""
    return {"known_names": "did you mean", "_meant": "say", "_hint": ": say", "_choices": "say"}.get(
        _name(node.func) if isinstance(node, ast.Call) else "", "…"
    )


@cache  # not when the tests are collected: each parallel worker does that
def all_texts() -> list[Text]:
    return [
        text
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in OF_PEERS
        for text in texts(path)
        if re.search("[a-z]{3}", text.text)  # else it only passes others on
    ]


def test_messages_are_found_in_the_source() -> None:
    assert len(all_texts()) > 200
    assert {"conclude", "Refuse", "log.warning", "TypeError", "ValueError"} <= {text.kind for text in all_texts()}


def test_every_message_says_what_to_do() -> None:
    silent = {text.text: text for text in all_texts() if not ADVICE.search(text.text)}

    excused = {text for group in EXCUSED.values() for text in group}
    assert [silent[text] for text in silent.keys() - excused] == [], "say at the end what to do"
    assert excused - silent.keys() == set(), "these need no excuse any more"


def test_a_message_that_only_says_what_happened_is_found() -> None:
    assert not ADVICE.search("the reply has … bytes")
    assert not ADVICE.search("… is not a function")
    assert not ADVICE.search("no reply in time; queue … has … waiting")


#: Messages without advice, by why they have none.
EXCUSED: dict[str, set[str]] = {
    "Of `control`, still to be judged: what a server or a tool answers to a question that it cannot take.": {
        "it has more than … bytes",
        "not a histogram: …",
        "it is not a JSON object: …",
        "it names … calls; … are allowed",
        "it names … streams; … are allowed",
        "its properties cannot be read: …",
        "the broker refuses what is needed to ask: …",
        "the caller of the handler that makes this call has given up",
    },
    "As Python says it.": {
        "module … has no attribute …",
    },
    "Of one dead message, which stays: `warren dead --help` says how to look at it, retry it or drop it.": {
        "there is no message … in …",
        "… cannot be tried again",
        "… cannot be tried again, as it cannot be read: …",
        "… cannot be tried again: its body of … bytes is too large",
        "… cannot be tried again: its headers are larger than a frame",
        "… cannot be tried again: …",
        "… stays in … and may be in … too, not confirmed: …",
        "… was not taken and stays in …: …",
    },
    "The system's own words say what is wrong with the file.": {
        "--log-config …: cannot be read: …",
        "--log-config …: … (…) or ",
    },
    "Faults between Warren's own parts: a caller sees another error.": {
        "a call that is … cannot become …",
        "a delivery of a tapped channel reached Pika",
        "a server cannot go from … to …",
        "done by whoever dials, or by the loop's owner",
        "it called for the end of the process: …",
        "its headers fill a frame already",
        "the call has ended",
        "the interpreter is ending",
        "the worker has ended, and its threads with it",
        "… makes objects of another class",
    },
    "What was raised goes with it, or was told to a caller with its advice.": {
        "%s: %s could not be handled: %s",
        "%s: %s failed and is set aside in %s: %s",
        "%s: %s raised %s",
        "service %r %s",
        "the client's connection could not be closed",
        "the lifespan of service %r raised as it ended",
    },
    "What is filled in, or follows, ends with the advice.": {
        "MessagePack data is malformed: more is announced than there is",
        "cannot connect to …: …",
        "its error description is damaged: …",
        "no reply in time, and the broker has not confirmed that it has the request…",
        "no reply in time…",
        "….…: the result or argument …: …",
        "…: the items: …",
        "…: the items in …: …",
        "… items came of a stream that has …",
        "items came of a method that yields none",
        "… items came in a message that says …",
        "…: the implementation does not fit its stub: …. Stub: …. Implementation: …",
        "…: what the lifespan of service … yields: …",
    },
    "Says how it stands: there is nothing to do.": {
        "%s (process %d) %s while it drained",
        "%s accepts publishing again",
        "%s: serving again",
        "%s; starting another in %.1f s",
        "changed: %s; restarting",
        "second signal: ending at once",
        "the parent process is gone: finishing what is running",
        "waiting for a file to change",
    },
}
