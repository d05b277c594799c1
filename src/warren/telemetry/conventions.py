"""OpenTelemetry's names for what Warren tells it: its conventions for RPC, as of version 1.44. Needs no extra.

Written here once, as they have changed before, and a package that has them all in a module that is called incubating
may move them. A test compares them with that package.
"""

from __future__ import annotations

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
#: What ``rpc.system.name`` is.
SYSTEM = "warren"
#: In place of the name of a method that a service does not have: names of strangers would be metrics without end.
OTHER = "_OTHER"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_METHOD_ORIGINAL = "rpc.method_original"
STATUS_CODE = "rpc.response.status_code"
ERROR_TYPE = "error.type"
#: The service: what a request is addressed to. Which process serves it is the broker's business.
SERVER_ADDRESS = "server.address"

#: Of our own: what conventions have no names for.
CALL_ID = "warren.call_id"
KIND = "warren.kind"
ATTEMPT = "warren.attempt"
REASON = "warren.reason"
EXECUTION = "warren.execution"

CLIENT_DURATION = "rpc.client.call.duration"
SERVER_DURATION = "rpc.server.call.duration"
CLIENT_DESCRIPTION = "Measures the duration of an outgoing Remote Procedure Call (RPC)."
SERVER_DESCRIPTION = "Measures the duration of an incoming Remote Procedure Call (RPC)."
#: Seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
