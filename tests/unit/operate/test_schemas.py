"""What programs are told of a service: JSON Schemas, and AsyncAPI documents."""

from warren.operate.asyncapi import document
from warren.operate.schemas import as_object
from warren.operate.told import ErrorInfo, MethodInfo, ServiceInfo

#: What is no term of a method: what it is called and takes, and what is its worker's own business.
OTHERS = {"name", "doc", "signature", "is_async", "concurrency", "arguments", "taken", "result"}


def test_both_say_how_a_method_is_called_and_delivered() -> None:
    rows = MethodInfo("rows", delivery="at-least-once", max_attempts=5, streams=True, resumable=True, broadcast=True)
    service = ServiceInfo("shop", methods=[rows], errors=[ErrorInfo("Gone", None, "KeyError")])
    told = {name: getattr(rows, name) for name in rows.__struct_fields__ if name not in OTHERS}
    assert told["resumable"]
    schema, described = as_object(service), document(service, "localhost:5672", "/", tls=False)
    assert schema["methods"]["rows"].items() >= told.items()
    assert described["operations"]["rows"]["x-warren"] == told
    errors = [{"name": "Gone", "doc": None, "base": "KeyError"}]
    assert schema["errors"] == described["info"]["x-warren"]["errors"] == errors
