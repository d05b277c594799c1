"""What the pages show of what was said: who is silent, who is gone, and no more than can be shown."""

from __future__ import annotations

import msgspec

from warren.dashboard.picture import SILENT, Picture
from warren.dashboard.reading import MOST_CALLS, MOST_INSTANCES, MOST_SERVICES
from warren.operate.told import Call, Calls, Info, MethodInfo, ServiceInfo, ServiceStats, Stats, Usage


def picture(*names: str, now: float = 0) -> Picture:
    """Processes that serve `calc`."""
    made = Picture()
    for name in names:
        one = made.heard(name, now)
        assert one is not None
        one.info = Info(services=[ServiceInfo("calc", methods=[MethodInfo("fib")])])
    made.looked(now, {name: Stats(10.0, services={"calc": ServiceStats(running=2, concurrency=8)}) for name in names})
    return made


def test_what_processes_say_of_a_service_is_added_up() -> None:
    (service,) = picture("one", "two").as_object(0)["services"]
    assert (service["instances"], service["running"], service["concurrency"]) == (2, 4, 16)
    assert [method["name"] for method in service["methods"]] == ["fib"]


def test_a_process_that_says_nothing_is_silent_and_then_gone() -> None:
    seen = picture("one")
    seen.looked(SILENT - 1, {})
    (one,) = seen.as_object(SILENT - 1)["instances"]
    assert one["silent"] == SILENT - 1
    seen.looked(SILENT + 1, {})
    assert seen.as_object(SILENT + 1)["instances"] == seen.as_object(SILENT + 1)["services"] == []


def test_a_process_is_shown_before_it_has_said_who_it_is() -> None:
    made = Picture()
    assert made.heard("one", 0) is not None
    (one,) = made.as_object(0)["instances"]
    assert (one["id"], one["name"], one["healthy"]) == ("one", "", None)


def test_only_so_many_processes_are_kept() -> None:
    made = Picture()
    heard = [made.heard(f"{n}", 0) for n in range(MOST_INSTANCES + 5)]
    assert heard.count(None) == 5


def test_only_so_many_services_and_calls_are_shown() -> None:
    made = picture("one")
    one = made.instances["one"]
    one.calls = Calls([Call("calc", age=float(n)) for n in range(MOST_CALLS + 7)])
    made.looked(1, {"one": Stats(11.0, services={f"s{n}": ServiceStats() for n in range(MOST_SERVICES + 5)})})
    shown = made.as_object(1)
    assert len(shown["services"]) == MOST_SERVICES
    assert (len(shown["calls"]), shown["calls_left_out"]) == (MOST_CALLS, 7)
    assert shown["calls"][0]["age"] == MOST_CALLS + 6  # the oldest are shown


def test_the_processors_share_is_that_between_two_looks() -> None:
    made = picture("one")
    for uptime, cpu in (10.0, 3.0), (12.0, 4.0):
        made.looked(uptime, {"one": Stats(uptime, Usage(cpu=cpu))})
    assert made.as_object(12.0)["instances"][0]["cpu"] == 0.5


def test_all_of_it_can_be_sent() -> None:
    assert msgspec.json.decode(msgspec.json.encode(picture("one").as_object(0)))["instances"]
