"""What a method tells of its types as JSON Schema: true of what it takes and of what it gives, or nothing."""

import datetime
import decimal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import annotated_types
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from msgspec import Meta

from warren.protocol.codecs import JSON
from warren.protocol.schema import MAX_SCHEMA, arguments_schema, result_schema
from warren.protocol.signature import Method, make_method


def declare(function: Callable[..., Any]) -> Method:
    return make_method(
        "calc", function, name=None, delivery="report", max_attempts=3, default=False, time_limit=None,
        concurrency=None, errors={},
    )  # fmt: skip


class Stamp(pydantic.BaseModel):
    at: datetime.datetime


class Parcel(pydantic.BaseModel):
    weight: int = pydantic.Field(gt=0, alias="grams")
    price: decimal.Decimal
    stamps: list[Stamp] = []
    within: "Parcel | None" = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def heavy(self) -> bool:
        return self.weight > 1000


@dataclass
class Truck:
    load: list[Parcel]


def unload(truck: Truck, first: Parcel | None = None, *, by_name: dict[str, Parcel]) -> Parcel:
    return first or truck.load[0]


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def test_a_pydantic_model_is_told_with_its_names_and_rules_wherever_it_stands() -> None:
    schema = arguments_schema(declare(unload))
    assert schema is not None
    assert (list(schema["properties"]), schema["required"]) == (["truck", "first", "by_name"], ["truck", "by_name"])
    model = schema["$defs"]["Parcel"]
    assert model["properties"]["grams"] == {"exclusiveMinimum": 0, "title": "Grams", "type": "integer"}
    assert model["required"] == ["grams", "price"]
    assert schema["$defs"]["Truck"]["properties"]["load"]["items"] == {"$ref": "#/$defs/Parcel"}


@pytest.mark.parametrize("schema", [arguments_schema(declare(unload)), result_schema(declare(unload))])
def test_all_that_models_refer_to_is_found_from_the_top(schema: dict[str, Any]) -> None:
    found = set(references(schema))
    assert found == {f"#/$defs/{name}" for name in schema["$defs"]}
    assert "$defs" not in str(schema["$defs"]).replace("#/$defs/", "")


def test_a_result_is_told_as_it_is_written_and_not_as_it_is_read() -> None:
    method = declare(unload)
    written = msgspec.json.decode(method.encode_result(JSON, Parcel(grams=5, price=decimal.Decimal("1.5"))))
    schema = result_schema(method)
    assert schema is not None
    model = schema["$defs"]["Parcel"]["properties"]
    assert set(model) == set(written) == {"grams", "price", "stamps", "within", "heavy"}
    assert (model["price"]["type"], written["price"]) == ("string", "1.5")


def test_a_type_that_no_schema_describes_is_told_as_unknown() -> None:
    class Odd(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        what: Method

    def take(odd: Odd, n: int) -> Odd: ...  # type: ignore[empty-body]

    method = declare(take)
    assert (arguments_schema(method), result_schema(method)) == (None, None)


def test_two_models_of_one_name_are_not_taken_for_each_other() -> None:
    def another() -> type[pydantic.BaseModel]:
        class Stamp(pydantic.BaseModel):
            colour: str

        class Letter(pydantic.BaseModel):
            stamp: Stamp

        return Letter

    def send(parcel: Parcel, letter: Any) -> None: ...

    send.__annotations__["letter"] = another()
    assert arguments_schema(declare(send)) is None


def test_a_schema_that_is_too_large_is_not_told() -> None:
    large = pydantic.create_model("Large", **{f"field_{n}": (int, 0) for n in range(MAX_SCHEMA // 40)})  # type: ignore[call-overload]

    def take(large: Any) -> None: ...

    take.__annotations__["large"] = large
    assert arguments_schema(declare(take)) is None


# --- rules that nobody would check ------------------------------------------------------------------------------------


@pydantic.dataclasses.dataclass
class Checked:
    n: int = pydantic.Field(gt=0)


@dataclass
class Holder:
    n: Annotated[int, annotated_types.Gt(0)]


class Pair(msgspec.Struct):
    one: pydantic.PositiveInt


def field(n: Annotated[int, pydantic.Field(gt=0)]) -> None: ...
def positive(ns: list[pydantic.PositiveInt | None]) -> None: ...
def inside(holder: dict[str, Holder]) -> None: ...
def struct(pair: Pair) -> None: ...
def of_pydantic(checked: list[Checked]) -> None: ...
def given() -> Checked: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("function", [field, positive, inside, struct])
def test_a_rule_that_only_pydantic_knows_is_refused_outside_of_a_model(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"would not be checked outside of a Pydantic model: say msgspec.Meta\(…\)"):
        declare(function)


@pytest.mark.parametrize("function", [of_pydantic, given])
def test_a_dataclass_of_pydantics_is_refused_with_what_to_take(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="the rules of Checked, a dataclass of Pydantic's, would not be checked: take"):
        declare(function)


def test_rules_in_models_and_beside_our_own_are_taken() -> None:
    def both(n: Annotated[int, Meta(gt=0), pydantic.Field(gt=0)], parcel: Parcel, text: Annotated[str, "any"]) -> None:
        """Both say the same, so that one hint serves a web framework, too."""

    schema = arguments_schema(declare(both))
    assert schema is not None
    assert schema["properties"]["n"] == {"type": "integer", "exclusiveMinimum": 0}
