"""Classes as services, and stubs with implementations elsewhere: declaring them. Serving them is in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest

from warren import CurrentCall, Server, Service, provided, remote
from warren.protocol.signature import method_of


class Pool:
    pass


@pytest.fixture
def service() -> Service:
    return Service("shop")


# --- classes ------------------------------------------------------------------------------------------------------


def test_the_public_functions_of_a_class_become_methods(service: Service) -> None:
    class Base:
        def inherited(self) -> None: ...

    @service.methods
    class Orders(Base):
        limit = 3

        def place(self, item: str) -> str:
            return item

        @staticmethod
        def price(item: str) -> int:
            return 1

        @property
        def size(self) -> int:
            return 1

        def _private(self) -> None: ...

    assert sorted(service.methods) == ["place", "price"]
    assert method_of(Orders.place).positional == ("item",)
    assert Orders().place("tea") == "tea"
    assert remote(Orders) is Orders  # type: ignore[comparison-overlap]  # what it is for


def test_methods_of_a_class_take_options(service: Service) -> None:
    @service.methods
    class Orders:
        @service.method(name="place-order", delivery="at-least-once", time_limit=2)
        def place(self, item: str) -> str:
            return item

        @service.method(name="price-of")
        @staticmethod
        def price(item: str) -> int:
            return 1

    method = method_of(Orders.place)
    assert (method.name, method.delivery, method.time_limit) == ("place-order", "at-least-once", 2)
    assert sorted(service.methods) == ["place-order", "price-of"]


def test_a_method_of_a_class_that_is_not_declared_cannot_be_served(service: Service) -> None:
    class Orders:
        @service.method
        def place(self, item: str) -> str:
            return item

    with pytest.raises(TypeError, match=r"Orders\.place takes `self`, .* decorate the class with @service\.methods"):
        Server(service)
    with pytest.raises(TypeError, match="is not a method of a service"):
        method_of(Orders.place)
    service.methods(Orders)
    assert Server(service)


def test_a_class_method_is_refused(service: Service) -> None:
    with pytest.raises(TypeError, match=r"shop\.make: .* is bound to a class"):

        @service.methods
        class Orders:
            @classmethod
            def make(cls) -> None: ...


def test_a_class_without_public_methods_is_refused(service: Service) -> None:
    with pytest.raises(ValueError, match="Orders has no public methods of its own"):

        @service.methods
        class Orders:
            def _place(self) -> None: ...


@pytest.mark.parametrize("wrong", [3, "Orders", lambda: None])
def test_only_classes_are_declared_as_classes(service: Service, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"is not a class; for a function say @service\.method"):
        service.methods(wrong)


def test_an_instance_is_not_made_of_what_belongs_to_one_call(service: Service) -> None:
    with pytest.raises(TypeError, match="an instance serves many calls"):

        @service.methods
        class Orders:
            def __init__(self, call: CurrentCall) -> None: ...

            def place(self) -> None: ...


def test_a_constructor_parameter_without_a_type_is_refused(service: Service) -> None:
    with pytest.raises(TypeError, match=r"Orders\(\): say of which type 'pool' is"):

        @service.methods
        class Orders:
            def __init__(self, pool) -> None: ...  # type: ignore[no-untyped-def]  # that is what is wrong with it

            def place(self) -> None: ...


# --- stubs --------------------------------------------------------------------------------------------------------


def test_an_implementation_takes_the_name_and_the_options_of_its_stub(service: Service) -> None:
    @service.stub(name="the-price", delivery="at-least-once", max_attempts=7, default=True, time_limit=3, concurrency=2)
    def price(item: str) -> int:
        raise NotImplementedError

    @service.implement(price)
    def price_of(item: str, pool: Pool = provided()) -> int:
        return 1

    method = method_of(price_of)
    assert service.methods == {"the-price": method}
    assert service.default is method
    assert (method.delivery, method.max_attempts, method.time_limit) == ("at-least-once", 7, 3)
    assert method.concurrency == 2
    assert method_of(price).function is price


def test_stubs_without_an_implementation_cannot_be_served(service: Service) -> None:
    for name in ("stock", "price"):
        service.stub(name=name)(lambda item: item)
    service.method(name="other")(lambda item: item)
    with pytest.raises(ValueError, match="stubs without an implementation: price, stock; import the module"):
        Server(service)


def test_a_stub_says_only_what_travels(service: Service) -> None:
    with pytest.raises(TypeError, match="what an implementation needs is no part of a stub"):

        @service.stub
        def price(item: str, pool: Pool = provided()) -> int:
            raise NotImplementedError


def test_a_stub_is_implemented_once(service: Service) -> None:
    @service.stub
    def price(item: str) -> int:
        raise NotImplementedError

    def other(item: str) -> int:
        return 1

    @service.implement(price)
    def price_of(item: str) -> int:
        return 1

    with pytest.raises(ValueError, match=r"shop\.price is implemented already, by .*price_of"):
        service.implement(price)(other)
    with pytest.raises(ValueError, match=r"shop\.price is declared twice"):
        service.method(name="price")(other)
    with pytest.raises(ValueError, match=r"shop\.price is declared twice"):
        service.stub(name="price")(other)


def test_only_the_services_own_stubs_are_implemented(service: Service) -> None:
    @service.method
    def stock(item: str) -> int:
        return 1

    other = Service("other").stub(name="stock")(lambda item: item)
    for wrong in (stock, other):
        with pytest.raises(TypeError, match="is not a stub of service 'shop'"):
            service.implement(wrong)(lambda item: item)


# --- what does not fit --------------------------------------------------------------------------------------------


def wrong_names(item: str, amount: int = 1, *, gift: bool = False) -> float:
    return 1.0


def wrong_types(item: bytes, count: list[int] = [], *, gift: bool = False) -> float:  # noqa: B006
    return 1.0


def wrong_defaults(item: str = "tea", count: int = 2, *, gift: bool) -> float:
    return 1.0


def wrong_kinds(item: str, /, count: int = 1, gift: bool = False) -> float:
    return 1.0


def wrong_order(count: int = 1, item: str = "tea", *, gift: bool = False) -> float:
    return 1.0


def wrong_result(item: str, count: int = 1, *, gift: bool = False) -> list[float]:
    return []


@pytest.mark.parametrize(
    ("function", "complaints"),
    [
        (wrong_names, ["'count' is missing", "'amount' is not in the stub"]),
        (wrong_types, ["'item' is of type bytes, not of type str", "'count' is of type list[int], not of type int"]),
        (
            wrong_defaults,
            [
                "'item' has the default 'tea', not no default",
                "'count' has the default 2, not the default 1",
                "'gift' has no default, not the default False",
            ],
        ),
        (
            wrong_kinds,
            [
                "'item' is positional-only, not positional or keyword",
                "'gift' is positional or keyword, not keyword-only",
            ],
        ),
        (wrong_order, ["the order differs"]),
        (wrong_result, ["the result is of type list[float], not of type float"]),
    ],
)
def test_an_implementation_that_does_not_fit_is_refused_with_all_differences_and_both_signatures(
    service: Service, function: Any, complaints: list[str]
) -> None:
    @service.stub
    def price(item: str, count: int = 1, *, gift: bool = False) -> float:
        raise NotImplementedError

    with pytest.raises(TypeError) as caught:
        service.implement(price)(function)
    text = str(caught.value)
    assert [complaint for complaint in complaints if complaint not in text] == []
    assert "Stub: price(item: str, count: int = 1, *, gift: bool = False) -> float" in text
    assert "Implementation: price(" in text
    assert not service.methods
