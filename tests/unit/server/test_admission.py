"""What becomes of a request whose headers are anybody's claim."""

import msgspec

from warren import Service
from warren.amqp.frames import Delivery
from warren.protocol.request import Request, RequestTemplate
from warren.protocol.slip import Slip, Stage
from warren.protocol.stage import slip_field
from warren.server.admission import Admission, Staged

NOW = 1_700_000_000.0


def admission() -> Admission:
    service = Service("shop")

    @service.method
    async def pay(n: int) -> int:
        return n

    return Admission(service)


def staged(*slips: Slip) -> Request:
    """A request of a stage that has these slips in its headers, one behind the other."""
    written = b"".join(slip_field(msgspec.json.encode(slip)) for slip in slips)
    template = RequestTemplate(
        "pay>", content_type="application/json", reply_to=b"replies", bounce=False, durable=False, slip=written
    )
    delivery = Delivery(1, False, b"\x00")
    delivery.properties = template.encode(b"id", b"id", 30_000, int(NOW * 1000) + 30_000, b"30000")
    delivery.body, delivery.body_size = b"[1]", 3
    return Request(delivery)


def test_a_request_with_two_slips_changes_nothing_for_those_that_have_the_first() -> None:
    """Slips are known by their bytes: who could put another one behind them would redirect everybody's pipeline."""
    own, other = (Slip((Stage("shop.pay"), Stage(to)), lean=True) for to in ("bank.book", "thief.take"))
    gate = admission()
    for request in (staged(own, other), staged(own)):
        decision = gate.decide(request, NOW, draining=False)
        assert isinstance(decision, Staged)
        assert decision.slip == own
