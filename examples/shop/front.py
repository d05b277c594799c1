"""The shop on the web: ``uvicorn front:app``. One client for the process; a status for each way a call can end."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from model import Basket, Cancelled, CardDeclined, Order, SoldOut
from orders import NoSuchOrder, Orders

from warren import AsyncClient, CallError, Code, Origin, remote

#: Of calls; the rest is 502: what stands behind us is broken.
STATUS = {
    Code.INVALID_ARGUMENT: 422,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 503,  # it is we who are busy; 429 would be for a customer with too many wishes
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
OWN: dict[type[Exception], int] = {SoldOut: 409, CardDeclined: 402, Cancelled: 409, NoSuchOrder: 404}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ.get("WARREN_URL", "amqp://localhost")
    async with AsyncClient(url, name="front", timeout=8) as app.state.client:
        yield


app = FastAPI(title="Warren's shop", lifespan=lifespan)


def _client(request: Request) -> AsyncClient:
    client: AsyncClient = request.app.state.client
    return client


@app.post("/orders", status_code=201)
async def place(basket: Basket, idempotency_key: Annotated[str, Header()], request: Request) -> Order:
    return await _client(request).call(remote(Orders).place, idempotency_key, basket)


@app.get("/orders/{number}")
async def find(number: str, request: Request) -> Order:
    return await _client(request).options(timeout=2).call(remote(Orders).find, number)


@app.exception_handler(CallError)
async def failed(request: Request, error: Exception) -> JSONResponse:
    """A call that has no result."""
    assert isinstance(error, CallError)
    status = STATUS.get(error.code, 502)
    if status < 500 and error.origin is Origin.HANDLER:  # the mistake was made behind us, not by the customer
        status = 502
    # Both requests above may be repeated, whatever happened: a GET, and a POST with its key. One that may not be is
    # repeated only if `error.safe_to_retry`.
    again = {"Retry-After": "1"} if status in (503, 504) else {}
    content = {"error": error.code, "message": error.message, "call": error.call_id, "ran": error.execution}
    return JSONResponse(content, status, again)


async def refused(request: Request, error: Exception) -> JSONResponse:
    """An answer of the shop's own."""
    return JSONResponse({"error": type(error).__name__}, OWN[type(error)])


for kind in OWN:
    app.add_exception_handler(kind, refused)
