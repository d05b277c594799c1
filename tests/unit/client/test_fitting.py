"""What one stage returns, and what the next one takes: what cannot be right is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, TypedDict

import pytest

from warren import Pipeline, Service
from warren.client.fitting import fits

Id = NewType("Id", int)


class Animal:
    pass


class Cat(Animal):
    pass


class Row(TypedDict):
    n: int


@dataclass
class Other:
    n: int


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, int), (int, float), (Any, int), (int, Any), (Cat, Animal), (Id, int), (int, int | None), (bool, int),
        (None, int | None), (list[int], list[int]), (list[int], list[float]), (list[int], Sequence[int]),
        (Literal[1, 2], int), (Annotated[int, "m"], int), (int | str, str | int | None), (Row, dict[str, Any]),
        (tuple[int, ...], tuple[int, ...]), (dict[str, int], dict[str, float]), (list, list[int]), (None, None),
    ],
)  # fmt: skip
def test_what_may_fit_is_let_through(given: Any, wanted: Any) -> None:
    assert fits(given, wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, str), (str, int), (Animal, Cat), (int | None, int), (list[int], list[str]), (None, int), (int, None),
        (Literal["a"], int), (str, Literal["a"]), (dict[str, int], list[int]), (float, int), (Other, Cat),
        (list[int | None], list[int]),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused(given: Any, wanted: Any) -> None:
    assert not fits(given, wanted)


def make() -> tuple[Service, Any, Any]:
    service = Service("shapes")

    @service.method
    def count(text: str) -> int:
        return len(text)

    @service.method
    async def show(n: int, width: int = 3) -> str:
        return f"{n:{width}}"

    return service, count, show


def test_a_pipeline_of_stages_that_do_not_fit_is_refused_when_it_is_built() -> None:
    service, count, show = make()

    @service.method
    def two(a: int, b: int) -> int:
        return a + b

    @service.method
    def named(*, n: int) -> int:
        return n

    @service.method
    def none() -> int:
        return 1

    whole = Pipeline(count).then(show)
    assert whole.names == ("shapes.count", "shapes.show")
    with pytest.raises(TypeError, match=r"show > shapes\.two: a stage takes one argument"):
        whole.then(two)  # type: ignore[arg-type]
    for other in (named, none):
        with pytest.raises(TypeError, match="a stage takes one argument"):
            whole.then(other)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"show returns str, which does not fit the argument 'n' of show2\(n: int"):
        Pipeline(show).then(_another(service))
    with pytest.raises(ValueError, match="twice"):
        Pipeline(count).then(show).then(count)
    with pytest.raises(TypeError, match=r"'shapes.show' is a name.*@service.stub$"):
        Pipeline("shapes.show")  # type: ignore[call-overload]
    for several in ([count, show], (count, show), Pipeline(show)):
        with pytest.raises(TypeError, match=r"is several stages: .*Pipeline\(first\)\.then\(second\)$"):
            Pipeline(count).then(several)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not a method of a service: .* or with @service\.stub$"):
        Pipeline(len)


def _another(service: Service) -> Any:
    @service.method(name="show2")
    def show(n: int) -> str:
        return str(n)

    return show
