"""What tests ask of a RabbitMQ node, and have it do, in milliseconds: `rabbitmqctl` boots a VM of its own each time."""

import json
import re

from rabbit import Node

Permissions = tuple[str, str, str]
ALL: Permissions = (".*", ".*", ".*")


def _binary(text: str) -> str:
    """A binary in Erlang; of ASCII."""
    return f"<<{json.dumps(text)}>>"


def _resource(kind: str, name: str) -> str:
    return f'rabbit_misc:r(<<"/">>, {kind}, {_binary(name)})'


def add_user(node: Node, name: str, password: str, permissions: Permissions = ALL) -> None:
    """A user that may configure, write and read what these match."""
    node.eval(f'ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, <<"tests">>)')
    grant(node, name, permissions)


def grant(node: Node, name: str, permissions: Permissions = ALL, vhost: str = "/") -> None:
    """From now on the user may configure, write and read what these match."""
    given = ", ".join(_binary(text) for text in (name, vhost, *permissions))
    node.eval(f'ok = rabbit_auth_backend_internal:set_permissions({given}, <<"tests">>)')


def delete_user(node: Node, name: str) -> None:
    node.eval(f'ok = rabbit_auth_backend_internal:delete_user({_binary(name)}, <<"tests">>)')


def add_vhost(node: Node, name: str) -> None:
    """A vhost in which `guest` may do everything."""
    node.eval(f'ok = rabbit_vhost:add({_binary(name)}, <<"tests">>)')
    grant(node, "guest", vhost=name)


def delete_vhost(node: Node, name: str) -> None:
    node.eval(f'rabbit_vhost:delete({_binary(name)}, <<"tests">>), ok')


def queue_names(node: Node) -> list[str]:
    found = node.eval("[binary_to_list(element(4, amqqueue:get_name(Q))) || Q <- rabbit_amqqueue:list()]")
    return re.findall(r'"([^"]*)"', found)


def delete_queue(node: Node, name: str) -> None:
    """Whoever it belongs to."""
    node.eval(
        f"{{ok, Q}} = rabbit_amqqueue:lookup({_resource('queue', name)}),"
        ' rabbit_amqqueue:delete(Q, false, false, <<"tests">>), ok'
    )


def connections(node: Node) -> list[str]:
    """What clients have said of themselves, a line for each connection; its quotes are single ones."""
    line = 'string:replace(io_lib:format("~0p", [P]), [34], [39], all)'
    found = node.eval(f"[lists:flatten({line}) || P <- rabbit_networking:connection_info_all([client_properties])]")
    return re.findall(r'"([^"]*)"', found)
