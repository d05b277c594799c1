"""The embedded broker: AMQP 0-9-1 in pure Python, in memory, for development and tests.

It stands alone: of the rest of Warren it knows only `warren.amqp.frames`, and nothing of the rest knows it.
"""

from warren.broker.embedded import Broker as Broker
from warren.broker.status import Status as Status
