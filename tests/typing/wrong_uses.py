"""Wrong uses of the public API: mypy --strict must reject every line that says ``# E:``, with that code, and no other.

Nothing here is run; see test_typing.py.
"""

from collections.abc import AsyncIterator, Iterator

from msgspec import Struct

from warren import (
    AsyncClient,
    Client,
    ConnectionOptions,
    CurrentCall,
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


service = Service("calc")


@service.method
def fib(n: int) -> int:
    return n


@service.method(delivery="at-least-once")
async def scale(x: float, *, by: float = 2.0) -> float:
    return x * by


@service.method
def move(point: Point) -> Point:
    return point


@service.method
def notify(person: str) -> None: ...


def a_method_is_the_function_it_was() -> None:
    fib("30")  # E: [arg-type]
    fib()  # E: [call-arg]
    scale(1.0) + 1  # E: [operator]


def wrong_arguments(client: Client) -> None:
    client.call(fib, "30")  # E: [call-overload]
    client.call(fib, None)  # E: [call-overload]
    client.call(fib)  # E: [call-overload]
    client.call(fib, 30, 31)  # E: [call-overload]
    client.call(fib, m=30)  # E: [call-overload]
    client.call(fib, 30, n=30)  # E: [misc]
    client.call(scale, "1.5")  # E: [call-overload]
    client.call(scale, 1.5, 2.0)  # E: [call-overload]
    client.call(scale, 1.5, to=2.0)  # E: [call-arg]
    client.call(move, {"x": 1})  # E: [call-overload]
    client.submit(fib, "30")  # E: [call-overload]
    client.submit(scale)  # E: [call-overload]
    client.cast(notify)  # E: [call-overload]
    client.cast(notify, 1)  # E: [call-overload]
    client.call_bare("rpc_queue", 30)  # E: [arg-type]
    client.call_bare(fib, b"30")  # E: [arg-type]


def wrong_results_by_name(client: Client) -> None:
    client.call("calc.fib", 30, returns=int).upper()  # E: [attr-defined]
    client.call(fib, 30, returns=int)  # E: [call-arg]


def wrong_targets(client: Client) -> None:
    client.call()  # E: [call-overload]
    client.call(30)  # E: [call-overload]
    client.call(b"calc.fib", 30)  # E: [call-overload]
    client.call(fib(30))  # E: [call-overload]
    client.call(service, 30)  # E: [call-overload]


def wrong_uses_of_the_result(client: Client) -> None:
    text: str = client.call(fib, 30)  # E: [assignment]
    client.call(fib, 30).upper()  # E: [attr-defined]
    client.call(scale, 1.5).upper()  # E: [attr-defined]
    client.call(move, Point(1)).z()  # E: [attr-defined]
    client.call(notify, "Ann").upper()  # E: [attr-defined]
    client.submit(fib, 30) + 1  # E: [operator]
    client.submit(fib, 30).result().upper()  # E: [attr-defined]
    confirmed: bool = client.cast(fib, 30)  # E: [assignment]
    answer: str = client.call_bare("rpc_queue", b"30")  # E: [assignment]
    client.ignored_replies = 0  # E: [misc]
    print(text, confirmed, answer)


def options_are_not_arguments(client: Client) -> None:
    client.call(fib, 30, timeout=2)  # E: [call-arg]
    client.options(timeuot=2)  # E: [call-arg]
    client.options(2)  # E: [call-arg]
    client.options(timeout="2")  # E: [arg-type]
    client.options(encoding="pickle")  # E: [arg-type]
    client.options(headers=["token"])  # E: [arg-type]
    client.options(timeout=2).call(fib, "30")  # E: [call-overload]


async def a_blocking_client_is_not_awaited(client: Client) -> None:
    await client.call(fib, 30)  # E: [misc]
    await client.call(scale, 1.5)  # E: [misc]
    await client.cast(fib, 30)  # E: [misc]
    async with client:  # E: [attr-defined]
        pass


async def an_async_client_is(client: AsyncClient) -> None:
    client.call(fib, 30)  # E: [unused-coroutine]
    client.cast(fib, 30)  # E: [unused-coroutine]
    number: int = client.call(fib, 30)  # E: [assignment]
    (await client.call(fib, 30)).upper()  # E: [attr-defined]
    await client.call(fib, "30")  # E: [call-overload]
    await client.call(scale, "1.5")  # E: [call-overload]
    await client.call(fib)  # E: [call-overload]
    await client.call(fib, 30, timeout=2)  # E: [call-arg]
    await client.cast(notify, 1)  # E: [call-overload]
    (await client.call(scale, 1.5)).upper()  # E: [attr-defined]
    client.submit(fib, 30)  # E: [attr-defined]
    with client:  # E: [attr-defined]
        pass
    print(number)


def wrong_settings() -> None:
    Client(timeout="2")  # E: [arg-type]
    Client("amqp://localhost", timeuot=2)  # E: [call-arg]
    Client("amqp://localhost", 2)  # E: [call-arg]
    Client(heartbeat="2")  # E: [arg-type]
    AsyncClient(hearbeat=2)  # E: [call-arg]
    Server(service, hearbeat=2)  # E: [call-arg]
    Server(service, ssl=True)  # E: [arg-type]
    service.run(vhost=b"/")  # E: [arg-type]
    service.run(timeout=2)  # E: [call-arg]
    broker: ConnectionOptions = {"hearbeat": 2}  # E: [typeddict-unknown-key]
    Client(**broker, timeout="2")  # E: [arg-type]
    AsyncClient(encoding="yaml")  # E: [arg-type]
    AsyncClient(errors=[ValueError("x")])  # E: [list-item]
    Service()  # E: [call-arg]
    Service("calc", queue="stream")  # E: [arg-type]
    Service("calc", errors=[KeyboardInterrupt])  # E: [list-item]
    Service("calc", middleware=[not_async])  # E: [list-item]
    Service("calc", middleware=[too_few])  # E: [list-item]
    Client(middleware=[not_async])  # E: [list-item]
    AsyncClient(middleware=[of_a_service])  # E: [list-item]
    Server("calc")  # E: [arg-type]
    Server(fib)  # E: [arg-type]
    service.method(fib, default=True)  # E: [call-overload]
    service.method(delivery="exactly-once")  # E: [call-overload]
    service.method(max_attempts="3")  # E: [call-overload]
    service.method("fib")  # E: [call-overload]


def not_async(call: CurrentCall, proceed: Proceed) -> str:
    return call.method


async def of_a_service(call: CurrentCall, proceed: Proceed) -> str:
    return call.method


async def too_few(call: CurrentCall) -> str:
    return call.method


@service.method
def what_a_call_may_lack() -> float:
    return current_call().deadline - 1.0  # E: [operator]


# --- what handlers need -------------------------------------------------------------------------------------------


def user() -> Iterator[str]:
    yield "alice"


async def number() -> int:
    return 1


@service.method
def provided_as_another_type(item: str, *, who: int = provided(user)) -> None: ...  # E: [assignment]


@service.method
async def provided_by_nothing(item: str, *, who: int = provided(3)) -> None: ...  # E: [call-overload]


@service.lifespan  # E: [type-var]
async def with_parameters(url: str) -> AsyncIterator[str]:
    yield url


@service.lifespan  # E: [type-var]
def not_a_lifespan() -> int:
    return 1


@service.methods  # E: [type-var]
def not_a_class() -> None: ...


@service.methods
class Orders:
    def place(self, item: str, *, lucky: int = provided(number)) -> bool:
        return True


@service.stub
def stock(item: str, count: int = 1) -> int:
    raise NotImplementedError


@service.implement(stock)  # E: [arg-type]
def stock_by_another_name(item: str, amount: int = 1) -> int:
    return 1


@service.implement(stock)  # E: [arg-type]
def stock_of_another_type(item: bytes, count: int = 1) -> int:
    return 1


@service.implement(stock)  # E: [arg-type]
def stock_without_a_default(item: str, count: int) -> int:
    return 1


@service.implement(stock)  # E: [arg-type]
async def stock_with_another_result(item: str, count: int = 1) -> str:
    return ""


@service.implement(stock)  # E: [arg-type]
def stock_that_needs_more(item: str, count: int = 1, *, gift: bool) -> int:
    return 1


def calls_of_classes(client: Client) -> None:
    client.call(Orders.place, "tea")  # E: [call-overload]
    client.call(remote(Orders).place, 3)  # E: [call-overload]
    client.call(remote(Orders).place)  # E: [call-overload]


def what_a_state_may_lack(call: CurrentCall[int]) -> None:
    call.state.upper()  # E: [attr-defined]


async def numbers() -> AsyncIterator[int]:
    yield 1


def batches(client: Client) -> None:
    client.map(fib, ["1"])  # E: [arg-type]
    client.map(fib, numbers())  # E: [call-overload]
    client.map(fib, [1], errors="ignore")  # E: [call-overload]
    client.map(fib, [1], in_flihgt=3)  # E: [call-overload]
    for end in client.map(fib, [1], errors="return"):
        end + 1  # E: [operator]
    for number in client.map(fib, [1]):
        number.upper()  # E: [attr-defined]
    client.map(star(scale), [("1",)])  # E: [arg-type]


async def async_batches(client: AsyncClient) -> None:
    for number in client.map(fib, [1]):  # E: [attr-defined]
        print(number)


def all_instances(client: Client) -> None:
    client.gather(fib, "3")  # E: [call-overload]
    client.broadcast(fib)  # E: [call-overload]


def streams(client: Client) -> None:
    client.stream(numbers, 3)  # E: [call-overload]
    client.stream(fib, 3)  # E: [call-overload]
    for number in client.stream(numbers):
        number.upper()  # E: [attr-defined]


@service.method
async def store(items: AsyncIterator[int], name: str) -> int:
    return 1


def uploads(client: Client) -> None:
    client.upload(store, [1])  # E: [call-overload]
    client.upload(store, ["one"], "name")  # E: [call-overload]
    client.upload(store, [1], 2)  # E: [call-overload]
    client.upload(fib, [1])  # E: [call-overload]
    client.upload(store, numbers(3), "name")  # E: [call-overload]
    client.converse(store, [1], "name")  # E: [call-overload]
    client.upload(store, [1], "name").upper()  # E: [attr-defined]


@service.method
async def named(n: int) -> str:
    return str(n)


@service.method
def counted(text: str) -> int:
    return len(text)


def pipelines(client: Client) -> None:
    whole = Pipeline(named).then(counted)
    Pipeline(named).then(named)  # E: [arg-type]
    Pipeline(counted).then(counted)  # E: [arg-type]
    client.call(whole, "1")  # E: [call-overload]
    client.call(whole, 1).upper()  # E: [attr-defined]
    client.cast(whole)  # E: [call-overload]
