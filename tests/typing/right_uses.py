"""Right uses of the public API: mypy --strict must accept every line. Nothing here is run; see test_typing.py."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, assert_type

from msgspec import Meta, Struct

from warren import (
    AsyncClient,
    Client,
    ClientCall,
    ConnectionOptions,
    CurrentCall,
    Outcome,
    PermissionDenied,
    Pipeline,
    Server,
    Service,
    current_call,
    provided,
    remote,
    star,
)
from warren.middleware import Proceed


class Point(Struct):
    x: int
    y: int = 0


class Broke(Exception):
    """An exception of the service's own."""


async def authorise(call: CurrentCall, proceed: Proceed) -> Any:
    if call.user != "alice" or call.headers.get("token") is None:
        raise PermissionDenied(f"{call.method} is not for {call.caller}")
    return await proceed()


async def with_tenant(call: ClientCall, proceed: Proceed) -> Any:
    call.headers["tenant"] = "acme"
    call.args = (*call.args, call.kind)
    return await proceed() if call.remaining > 1.0 else None


def clients_with_middleware() -> None:
    Client(middleware=[with_tenant], headers={"tenant": "acme"})
    AsyncClient(middleware=(with_tenant, with_tenant))


service = Service("calc", queue="quorum", concurrency=4, errors=[Broke], middleware=[authorise])


@service.method
def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    return n


@service.method
async def scale(x: float, /, by: float = 2.0, *, digits: int | None = None) -> float:
    return x * by


@service.method(name="move-point", delivery="at-least-once", max_attempts=5)
def move(points: list[Point], by: int = 1) -> list[Point]:
    return points


@service.method(delivery="at-most-once")
async def notify(person: str) -> None: ...


@service.method(default=True)
def anything(value: Any) -> Any:
    return value


@service.method()
async def async_anything(value: Any = None) -> Any:
    call = current_call()
    assert_type(call.deadline, float | None)
    assert_type(call.attempt, int)
    assert_type(call.call_id, str | None)
    return value


def a_method_is_the_function_it_was() -> None:
    assert_type(fib(30), int)
    assert_type(fib(n=30), int)
    coroutine: Coroutine[Any, Any, float] = scale(1.5, by=2)
    coroutine.close()
    assert_type(move([Point(1)], by=2), list[Point])
    assert_type(fib.__name__, str)


def blocking_calls(client: Client) -> None:
    assert_type(client.call(fib, 30), int)
    assert_type(client.call(fib, n=30), int)
    assert_type(client.call(scale, 1.5), float)
    assert_type(client.call(scale, 1, by=2, digits=None), float)
    assert_type(client.call(move, [Point(1, 2)], by=2), list[Point])
    client.call(notify, "Ann")
    assert_type(client.call(anything, object()), Any)
    assert_type(client.call(async_anything), Any)
    assert_type(client.call("calc.fib", 30), Any)
    assert_type(client.call("calc.fib", n=30), Any)
    assert_type(client.call("calc.fib", n=30, returns=int), int)
    assert_type(client.call("calc.move", returns=list[Point]), list[Point])
    maybe: int | None = client.call("calc.fib", 30, returns=int | None)
    print(maybe)


def blocking_futures(client: Client) -> None:
    assert_type(client.submit(fib, 30), Future[int])
    assert_type(client.submit(scale, 1.5, by=2), Future[float])
    assert_type(client.submit(notify, "Ann"), Future[None])
    assert_type(client.submit("calc.fib", 30), Future[Any])
    assert_type(client.submit("calc.fib", 30, returns=int), Future[int])
    futures = [client.submit(fib, n) for n in range(90)]
    assert_type(sum(future.result() for future in futures), int)


def blocking_casts_and_bare_calls(client: Client) -> None:
    client.cast(fib, 30)
    client.cast(notify, person="Ann")
    client.cast("calc.notify", "Ann")
    assert_type(client.call_bare("rpc_queue", b"30"), bytes)
    assert_type(client.call_bare("rpc_queue", "30"), bytes)
    assert_type(client.call_bare("rpc_queue"), bytes)
    assert_type(client.ignored_replies, int)


def options_live_beside_the_call(client: Client, other: AsyncClient) -> None:
    assert_type(client.options(timeout=2), Client)
    assert_type(other.options(timeout=0.5, fail_fast=True), AsyncClient)
    assert_type(client.options(encoding="msgpack", headers={"token": "x"}).call(fib, 30), int)
    assert_type(client.options(timeout=2).submit(fib, 30), Future[int])
    client.options().cast(fib, 30)


def a_client_is_opened_in_many_ways(urls: list[str]) -> None:
    Client()
    Client(urls, timeout=2, encoding="msgpack", errors=(Broke,), name="shop")
    with Client("amqp://localhost", username="ann", password="secret", vhost="/", heartbeat=5) as client:
        assert_type(client, Client)
        client.connect()


async def what_connects_takes_the_same_options(password: str | None) -> None:
    broker: ConnectionOptions = {"username": "ann", "password": lambda: "secret", "heartbeat": 5}
    broker["vhost"] = None
    broker |= {"password": password}
    Client("amqp://localhost", **broker)
    AsyncClient(timeout=2, **broker)
    Server(service, url="amqp://localhost", **broker)
    service.run("amqp://localhost", drain_timeout=2, **broker)
    await service.serve(concurrency=3, **broker)


async def async_calls(client: AsyncClient) -> None:
    assert_type(await client.call(fib, 30), int)
    assert_type(await client.call(scale, 1.5, by=2), float)
    assert_type(await client.call(move, points=[Point(1)]), list[Point])
    await client.call(notify, "Ann")
    assert_type(await client.call(anything, 1), Any)
    assert_type(await client.call(async_anything, 1), Any)
    assert_type(await client.call("calc.fib", 30), Any)
    assert_type(await client.call("calc.fib", 30, returns=int), int)
    assert_type(await client.options(timeout=2).call(fib, 30), int)
    await client.cast(fib, 30)
    await client.cast(notify, "Ann")
    await client.cast("calc.notify", person="Ann")
    assert_type(await client.call_bare("rpc_queue", b"30"), bytes)


async def async_calls_are_coroutines(client: AsyncClient) -> None:
    assert_type(await asyncio.gather(*(client.call(fib, n) for n in range(90))), list[int])
    both = await asyncio.gather(client.call(fib, 1), client.call(scale, 2.0))
    assert_type(both, tuple[int, float])
    task = asyncio.create_task(client.call(fib, 30))
    assert_type(task, asyncio.Task[int])
    async with AsyncClient("amqp://localhost") as opened:
        assert_type(opened, AsyncClient)


async def results_fit_where_a_wider_type_is_wanted(client: Client, other: AsyncClient) -> float | None:
    number: float = client.call(fib, 30)
    maybe: int | None = client.call(fib, 30)
    points: Sequence[Point] = client.call(move, [])
    number = await other.call(fib, 30)
    maybe = await other.call(fib, 30)
    points = await other.call(move, [])
    named: dict[str, int] = {"thirty": client.call(fib, 30), "by name": client.call("calc.fib", 30)}
    futures: list[Future[float]] = [client.submit(scale, 1.5)]
    print(number, maybe, points, named, futures, sep="; ")
    if client.call(fib, 30) > await other.call(scale, client.call(fib, 2)):
        return client.call(fib, 30)
    return await other.call(scale, 1.5)


async def serving(others: Iterable[Service]) -> None:
    await service.serve("amqp://localhost", concurrency=8)
    server = Server(service, *others, url=["amqp://one", "amqp://two"], drain_timeout=5)
    await server.ready()
    await server.serve()


# --- what handlers need -------------------------------------------------------------------------------------------


class Pool:
    """What a lifespan opens."""


@dataclass
class State:
    pool: Pool


shop = Service("shop")


@shop.lifespan
async def lifespan() -> AsyncIterator[State]:
    yield State(Pool())


@Service("other").lifespan
@asynccontextmanager
async def managed_lifespan() -> AsyncIterator[State]:
    yield State(Pool())


async def session(pool: Pool) -> AsyncIterator[Point]:
    yield Point(1)


def user(call: CurrentCall[State]) -> Iterator[str]:
    assert_type(call.state, State)
    yield "alice"


async def number() -> int:
    return 1


@shop.method
async def place(
    item: str,
    count: int = 1,
    *,
    pool: Pool = provided(),
    at: Point = provided(session),
    who: str = provided(user),
    lucky: int = provided(number),
    call: CurrentCall[State] = provided(),
) -> bool:
    assert_type(call.state.pool, Pool)
    return True


@shop.methods
class Orders:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def open(self, item: str, count: int = 1, *, who: str = provided(user)) -> int:
        return count

    @shop.method(delivery="at-least-once")
    async def close(self, number: int) -> bool:
        return True

    @staticmethod
    def price(item: str) -> float:
        return 1.0


@shop.stub
def stock(item: str, count: int = 1) -> int:
    raise NotImplementedError


@shop.stub(delivery="at-least-once")
async def refill(item: str) -> None: ...


@shop.implement(stock)
async def stock_of(item: str, count: int = 1, *, pool: Pool = provided()) -> int:
    return count


@shop.implement(refill)
def refill_now(item: str) -> None: ...


def what_is_provided_is_no_argument(client: Client) -> None:
    assert_type(client.call(place, "tea", 2), bool)
    assert_type(client.call(stock, "tea"), int)
    assert_type(client.call(stock_of, "tea", count=2), int)
    client.call(refill, "tea")


def methods_of_a_class_are_called_without_an_instance(client: Client) -> None:
    orders = remote(Orders)
    assert_type(client.call(orders.open, "tea", 2), int)
    assert_type(client.call(orders.close, 1), bool)
    assert_type(client.call(Orders.price, "tea"), float)


async def a_test_calls_functions_and_classes_directly() -> None:
    assert_type(await place("tea", 2, pool=Pool(), at=Point(1), who="bob"), bool)
    assert_type(Orders(Pool()).open("tea", who="bob"), int)
    with shop.override(Pool, Pool()), shop.override(user, lambda: "bob"), shop.override(lifespan, managed_lifespan):
        pass


@service.method(concurrency=2)
def half(n: int) -> float:
    return n / 2


@service.method
async def named(n: int, name: str) -> Point:
    return Point(n)


async def numbers() -> AsyncIterator[int]:
    yield 1


def batches(client: Client, rows: list[tuple[int, str]]) -> None:
    for result in client.map(half, range(3), in_flight=20, ordered=False):
        assert_type(result, float)
    for end in client.map(half, [1, 2], errors="return", progress=print):
        assert_type(end, Outcome[int, float])
        assert_type(end.item, int)
        assert_type(end.result(), float)
        assert_type(end.error, Exception | None)
    for point in client.map(star(named), rows):
        assert_type(point, Point)
    for point in client.map("calc.named", [1], returns=Point):
        assert_type(point, Point)
    for anything in client.map("calc.half", iter([1])):
        assert_type(anything, Any)
    client.map(half, [1]).close()
    client.options(wait=True, timeout=1).call(half, 1)


async def async_batches(client: AsyncClient, rows: list[tuple[int, str]]) -> None:
    async for result in client.map(half, numbers()):
        assert_type(result, float)
    async for end in client.map(star(named), rows, errors="return"):
        assert_type(end, Outcome[tuple[int, str], Point])
    assert_type([n async for n in client.map("calc.half", [1], returns=float)], list[float])
    await client.map(half, [1]).aclose()
    await client.options(wait=True).cast(half, 1)


@service.method
async def rows(n: int) -> AsyncIterator[Point]:
    yield Point(n, n)


@service.method
def plain_rows(n: int) -> Iterator[Point]:
    yield Point(n, n)


def all_instances(client: Client) -> None:
    for answer in client.gather(fib, 3):
        assert_type(answer.result(), int)
    for priced in client.gather("calc.rows", 1, returns=Point):
        assert_type(priced.result(), Point)
    assert_type(client.options(expect=3).broadcast(fib, 3).told, list[str])


async def async_all_instances(client: AsyncClient) -> None:
    async for answer in client.gather(fib, 3):
        assert_type(answer.result(), int)
        assert_type(answer.instance, str | None)
    assert_type((await client.broadcast("calc.fib", 3)).failed, dict[str, Exception])


def streams(client: Client) -> None:
    for point in client.stream(rows, 3):
        assert_type(point, Point)
    assert_type([*client.stream(plain_rows, n=3)], list[Point])
    with client.options(idle_timeout=3).stream("calc.rows", 1, returns=Point) as stream:
        assert_type(next(stream), Point)


async def async_streams(client: AsyncClient) -> None:
    async for point in client.stream(rows, 3):
        assert_type(point, Point)
    assert_type([p async for p in client.stream(plain_rows, n=3)], list[Point])
    async with client.stream("calc.rows", 1) as stream:
        async for _anything in stream:
            break
    await client.stream("calc.rows", 1, returns=Point).aclose()


@service.method
async def total(points: AsyncIterator[Point], weight: int = 1) -> int:
    return weight


@service.method
def plain_total(points: Iterator[Point], weight: int = 1) -> int:
    return weight


@service.method
async def mirrored(points: AsyncIterator[Point], axis: str) -> AsyncIterator[Point]:
    async for point in points:
        yield point


@service.method
def plain_mirrored(points: Iterator[Point], axis: str) -> Iterator[Point]:
    yield from points


@service.stub
async def total_stub(points: AsyncIterator[Point], weight: int = 1) -> int:
    raise NotImplementedError


async def some_points() -> AsyncIterator[Point]:
    yield Point(1, 2)


def uploads(client: Client, points: list[Point]) -> None:
    assert_type(client.upload(total, points), int)
    assert_type(client.upload(plain_total, iter(points), weight=3), int)
    assert_type(client.options(idle_timeout=3).upload(total_stub, (point for point in points), 2), int)
    assert_type(client.upload("calc.total", points, 2, returns=int), int)
    for point in client.converse(plain_mirrored, points, "x"):
        assert_type(point, Point)
    with client.converse("calc.mirrored", points, axis="x", returns=Point) as answers:
        assert_type(next(answers), Point)


async def async_uploads(client: AsyncClient, points: list[Point]) -> None:
    assert_type(await client.upload(total, points), int)
    assert_type(await client.upload(total, some_points(), weight=3), int)
    assert_type(await client.upload(plain_total, some_points()), int)
    assert_type(await client.upload("calc.total", points, returns=int), int)
    assert_type([point async for point in client.converse(mirrored, some_points(), "x")], list[Point])
    assert_type([point async for point in client.converse(plain_mirrored, points, axis="x")], list[Point])


@service.method
async def centre(points: list[Point], weight: int = 1) -> Point:
    return points[0]


@service.method
def label(point: Point) -> str:
    return f"{point}"


@service.stub
async def publish(text: str) -> int:
    raise NotImplementedError


def pipelines(client: Client) -> None:
    whole = Pipeline(centre).then(label).then(publish)
    assert_type(client.call(whole, [Point(1, 2)], weight=2), int)
    assert_type(client.submit(Pipeline(label).then(publish), Point(1, 2)).result(), int)
    assert_type([*client.map(Pipeline(label), [Point(1, 2)])], list[str])
    client.cast(whole, [])


async def async_pipelines(client: AsyncClient) -> None:
    whole = Pipeline(centre).then(label)
    assert_type(await client.options(timeout=3).call(whole, [Point(1, 2)]), str)
    assert_type(await whole([Point(1, 2)]), str)
    await client.cast(whole, [], weight=1)
