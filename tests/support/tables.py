"""How much clients and servers keep of the calls that are under way: what has to be nothing when none is.

The only place outside the unit tests that looks into their parts. Each count is told by its name, so that a test that
fails says where something was left; the last one, of objects that are alive at all, finds also what is kept elsewhere.
"""

from __future__ import annotations

import gc
from typing import Any

from warren import Server
from warren.client.calls import PendingCall
from warren.client.core import ClientCore
from warren.server.attempt import Attempt


def of_server(server: Server) -> dict[str, int]:
    """What a server keeps of requests, by what it is."""
    kept = {"attempts alive": len(_alive(Attempt))}
    for post in server._posts:
        worker, name = post.worker, post.name
        settler = worker._settler
        kept |= {
            f"{name}: places taken": len(worker._places.taken),
            f"{name}: waiting for a place": len(worker._places.waiting()),
            f"{name}: held": len(worker.holding.kept),
            f"{name}: suspected": len(settler.releases._suspected),
            f"{name}: copies": len(settler.copies),
            f"{name}: proofs": len(settler.releases._proofs),
            f"{name}: timers": len(worker._runner._cutoffs),
            f"{name}: tasks": len(worker._runner._tasks),
            f"{name}: jobs of threads": worker._runner.threads._unfinished,
        }
    return kept


def of_clients() -> dict[str, int]:
    """What all clients of this process keep of calls, by what it is."""
    cores = _alive(ClientCore)
    tables = [core._calls for core in cores]
    lanes = [lane for core in cores for lane in (core._confirming, core._plain)]
    publishers = [publisher for lane in lanes for publisher in (lane.current, lane._retired) if publisher]
    explainers = [core._endings._explainer for core in cores]
    return {
        "calls alive": len(_alive(PendingCall)),
        "calls": sum(map(len, tables)),
        "bytes held": sum(calls.held for calls in tables),
        "waiting to be written": sum(len(calls.waiting) for calls in tables),
        "waiting for a confirm": sum(len(publisher.confirms) for publisher in publishers),
        "refused": sum(len(calls.parked) for calls in tables),
        "timers": sum(len(calls._timers) for calls in tables),
        "questions": sum(len(asked) for it in explainers for asked in (it._next, it._open, it._silent)),
        "retired channels": sum(lane._retired is not None for lane in lanes),
    }


def left(kept: dict[str, int]) -> dict[str, int]:
    """What is not nothing."""
    return {what: count for what, count in kept.items() if count}


def _alive(kind: type) -> list[Any]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is kind]
