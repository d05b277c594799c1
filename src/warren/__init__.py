"""Warren: RPC over RabbitMQ. See the README, and `Service`, `Client`, `AsyncClient` to begin with."""

from warren.client.async_client import AsyncClient as AsyncClient
from warren.client.blocking import Client as Client
from warren.connection.settings import ConnectionOptions as ConnectionOptions
from warren.errors import CallError as CallError
from warren.errors import Cancelled as Cancelled
from warren.errors import Code as Code
from warren.errors import DeadlineExceeded as DeadlineExceeded
from warren.errors import Execution as Execution
from warren.errors import InvalidArgument as InvalidArgument
from warren.errors import LifespanError as LifespanError
from warren.errors import MethodNotFound as MethodNotFound
from warren.errors import Origin as Origin
from warren.errors import Overloaded as Overloaded
from warren.errors import PermissionDenied as PermissionDenied
from warren.errors import RemoteError as RemoteError
from warren.errors import Unavailable as Unavailable
from warren.errors import WorkerLost as WorkerLost
from warren.server.context import CurrentCall as CurrentCall
from warren.server.context import current_call as current_call
from warren.server.dependencies import provided as provided
from warren.server.methods import remote as remote
from warren.server.server import Server as Server
from warren.server.service import Service as Service
from warren.version import __version__ as __version__
