"""A private RabbitMQ node for the tests, the benchmarks and CI.

    python tools/rabbit.py install      make sure the rabbitmq-server package is there
    python tools/rabbit.py run          start a node, print its URL, stop it on Ctrl-C or SIGTERM

A node runs under any user, listens on loopback only, keeps everything in one folder and shares nothing
with a broker the system may run: ports, cookie, epmd and data are its own. Standard library only.
"""

import argparse
import contextlib
import fcntl
import functools
import itertools
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_HOST = "127.0.0.1"
# Where ports come from, and how many a process gets at a time: see `_block`.
_FIRST_PORT, _LAST_PORT, _BLOCK = 20_000, 32_700, 100
_LIB = Path("/usr/lib/rabbitmq")
_POLICY = Path("/usr/sbin/policy-rc.d")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/bin:/sbin:/bin"

# For every Erlang VM of a node, rabbitmqctl's included: distribution on loopback, two schedulers, no
# busy waiting (a spinning scheduler takes a core from the code under test).
_ERL_FLAGS = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"

# Erlang looks for a module in one folder after the other; 70 plugins in front make that 50 000 failed
# opens and half of the boot. With the broker as the only plugin, and the folders that most modules come
# from first, a boot takes 3.3 s instead of 7.4 (3.10.8), 2.2 instead of 4.0 (4.0.5).
_BUSIEST = (
    "rabbit kernel stdlib ssl rabbit_common inets compiler ra xmerl mnesia cuttlefish ranch "
    "rabbitmq_prelaunch sasl tools osiris public_key syntax_tools os_mon"
)

# Seconds for which a node that runs and takes no connection is asked again.
_ASK_AGAIN = 30.0

# The guard's standard input is a pipe from this process, which the kernel closes however we die, SIGKILL
# included; a word on the pipe means "stopped in good order". (PR_SET_PDEATHSIG would act when the *thread*
# that started the node ends, so asyncio.to_thread(node.restart) would lose the node; atexit misses SIGKILL.)
_GUARD = 'read -r _ || { kill -9 "$1" "$2"; rm -rf -- "$3"; }'


class RabbitError(RuntimeError):
    """A node did not start or a command on it failed; the text ends with the log or stderr."""


class RabbitMissing(RabbitError):
    """RabbitMQ is not installed and cannot be installed from here; the text says what to run."""


def _find() -> Path | None:
    # Not through PATH: Debian's /usr/sbin/rabbitmq-server is a wrapper that switches user.
    chosen = os.environ.get("RABBITMQ_BIN")
    folders = [Path(chosen).resolve()] if chosen else [_LIB / "bin", *_LIB.glob("lib/rabbitmq_server-*/sbin")]
    return next((folder for folder in folders if (folder / "rabbitmq-server").is_file()), None)


def find_or_install() -> Path:
    """Return the folder of the package's own `rabbitmq-server`; as root, install the package first.

    The environment variable `RABBITMQ_BIN` names a folder of your choice.

    Raises:
        RabbitMissing: there is none and it cannot be installed.
    """
    if _find() is None:
        _install()
    if (found := _find()) is None:
        raise RabbitMissing(f"rabbitmq-server is installed, yet nowhere in {_LIB}; set RABBITMQ_BIN")
    return found


def version() -> str:
    """The version of the RabbitMQ that `Node` starts, from its folder's name."""
    home = (find_or_install() / "rabbitmq-server").resolve().parents[1]
    return home.name.rpartition("-")[2]


def _install() -> None:
    if "RABBITMQ_BIN" in os.environ:
        raise RabbitMissing(f"no rabbitmq-server in RABBITMQ_BIN={os.environ['RABBITMQ_BIN']}")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RabbitMissing("RabbitMQ is missing; run: sudo apt-get install rabbitmq-server")
    with _services_denied():
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", "rabbitmq-server")


def _apt_get(*args: str) -> None:
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *args]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RabbitMissing(f"{' '.join(command)} failed:\n{_last_lines(done.stdout + done.stderr)}")


@contextlib.contextmanager
def _services_denied() -> Iterator[None]:
    """Keep package scripts from starting services, unless the machine has a policy of its own."""
    if _POLICY.exists():
        yield
        return
    try:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for a TLS listener; `verify` demands a client certificate that `cafile` signed."""

    cafile: Path
    certfile: Path
    keyfile: Path
    verify: bool = False


class _Neighbourhood:
    """What nodes that know each other share: a cookie and an epmd, which ends with the last of them."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.cookie = secrets.token_hex(20)
        self.epmd: subprocess.Popen[bytes] | None = None
        self.members: set[str] = set()

    def leave(self, name: str) -> None:
        """A node has stopped; the last one ends the epmd."""
        self.members.discard(name)
        if not self.members:
            _end(self.epmd, signal.SIGTERM)


class Node:
    """One private RabbitMQ node; as a context manager, started on entry and stopped on exit.

    Ports stay the same for the object's life: a client's URL survives `kill` and `restart`.

    Args:
        base: folder for data, log and configuration, kept on `stop`. None: a temporary one, removed.
        name: first part of the Erlang node name; two nodes may share it, unless they are neighbours.
        extra_conf: lines appended to `rabbitmq.conf`.
        tls: adds a TLS listener at `tls_port`.
        neighbours: what the nodes of one `Cluster` share.
        management: enables the management plugin, with its HTTP API at `management_url`; the boot takes longer.
    """

    def __init__(
        self,
        base: Path | None = None,
        name: str = "warren",
        extra_conf: str = "",
        tls: TlsFiles | None = None,
        neighbours: _Neighbourhood | None = None,
        management: bool = False,
    ) -> None:
        self.port, self.tls_port, self._dist_port, http = free_ports(4)
        self.base = Path(tempfile.mkdtemp(prefix="warren-rabbit-")) if base is None else base.resolve()
        self.log_path = self.base / "rabbit.log"
        self.url = f"amqp://guest:guest@{_HOST}:{self.port}/"
        self._temporary = base is None
        self.name = f"{name}@localhost"
        self._shared = neighbours or _Neighbourhood()
        self.management_url = f"http://{_HOST}:{http}"
        self._extra_conf = extra_conf
        self._management = management
        if management:
            self._extra_conf += f"\nmanagement.tcp.ip = {_HOST}\nmanagement.tcp.port = {http}"
        self._tls = tls
        self._bin: Path | None = None
        self._beam: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the node's process is alive; a frozen one is."""
        return self._beam is not None and self._beam.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the Erlang VM; RabbitError when the node is not running."""
        if self._beam is None or not self.running:
            raise RabbitError(f"{self.name} is not running")
        return self._beam.pid

    def start(self, timeout: float = 90) -> None:
        """Start the node unless it is running, and return when it answers AMQP.

        Raises:
            RabbitMissing: RabbitMQ is not installed and cannot be.
            RabbitError: the process died, or did not answer within `timeout` seconds; it is stopped.
        """
        try:
            if not self.running:
                self._bin = find_or_install()
                self._prepare()
                self._launch(self._bin)
            self._wait(self._beam, lambda: _speaks_amqp(self.port), timeout)
        except BaseException:
            self.stop()
            raise

    def shutdown(self) -> None:
        """Stop the broker in good order (SIGTERM) and keep its data; clients get CONNECTION_FORCED."""
        _end(self._beam, signal.SIGTERM)

    def kill(self) -> None:
        """Stop the broker at once (SIGKILL) and keep its data."""
        _end(self._beam, signal.SIGKILL)

    def register_queues(self) -> None:
        """Have the broker write its register of quorum queues, for a `kill` soon after one was declared.

        It writes it half a second later by itself. Killed before, it does not know the queue's log again and never
        elects a leader for it, so that nothing can be put into it or got out of it any more (RabbitMQ 3.10.8).
        """
        self.eval("[dets:sync(Table) || Table <- dets:all()], ok")

    def restart(self, timeout: float = 90) -> None:
        """Shut the broker down if it is running, and start it again on the same ports and data."""
        self.shutdown()
        self.start(timeout)

    def freeze(self) -> None:
        """Suspend the broker (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`; harmless on a node that is not frozen."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> None:
        """Return when the broker's process has ended."""
        if self._beam is not None:
            self._beam.wait()

    def stop(self) -> None:
        """Shut down, end our epmd and remove a temporary base; harmless when stopped already."""
        self.shutdown()
        self._shared.leave(self.name)
        self._dismiss_guard()
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` on the node (takes 0.5 to 2 s) and return its output; RabbitError if it fails."""
        if self._bin is None:
            raise RabbitError(f"{self.name} was never started")
        port = str(free_ports(1)[0])
        env = self._env() | {"RABBITMQ_CTL_DIST_PORT_MIN": port, "RABBITMQ_CTL_DIST_PORT_MAX": port}
        command = [f"{self._bin}/rabbitmqctl", "-q", *args]
        done = self._finished(command, env, "", 120)
        if done.returncode != 0:
            raise RabbitError(f"rabbitmqctl {' '.join(args)} failed: {done.stderr.strip()}")
        return done.stdout

    def eval(self, expression: str) -> str:
        """Evaluate Erlang on the node, in milliseconds, where `ctl` boots a VM of its own; returns the value as text.

        On a busy machine a node that runs may not take the connection in time: nothing is evaluated then, and it is
        asked again for `_ASK_AGAIN` seconds.

        Raises:
            RabbitError: the node does not answer, or the expression fails.
        """
        ends = time.monotonic() + _ASK_AGAIN
        done = self._erl_call(expression)
        while "failed to connect" in done.stderr and self.running and time.monotonic() < ends:
            time.sleep(0.2)
            done = self._erl_call(expression)
        value = done.stdout.strip()
        if done.returncode != 0 or not value.startswith("{ok, "):
            raise RabbitError(f"{self.name} does not evaluate {expression!r}: {value} {done.stderr.strip()}")
        return value.removeprefix("{ok, ").removesuffix("}")

    def _erl_call(self, expression: str) -> subprocess.CompletedProcess[str]:
        command = ["erl_call", "-c", self._shared.cookie, "-n", self.name, "-timeout", "10", "-e"]
        return self._finished(command, self._env(), f"{expression.rstrip().rstrip('.')}.\n", 60)

    def _finished(
        self, command: list[str], env: dict[str, str], text: str, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(command, env=env, input=text, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise RabbitError(f"{self.name} has not answered {Path(command[0]).name} within {seconds:g} s") from error

    def _prepare(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        cookie = self.base / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)
            cookie.write_text(self._shared.cookie)
            cookie.chmod(0o400)
        conf = ["disk_free_limit.absolute = 50MB", *self._tls_conf(), self._extra_conf, ""]
        (self.base / "rabbitmq.conf").write_text("\n".join(conf))
        if self._management:
            (self.base / "enabled_plugins").write_text("[rabbitmq_management].\n")

    def _tls_conf(self) -> list[str]:
        if self._tls is None:
            return []
        return [
            f"listeners.ssl.default = {_HOST}:{self.tls_port}",
            f"ssl_options.cacertfile = {self._tls.cafile}",
            f"ssl_options.certfile = {self._tls.certfile}",
            f"ssl_options.keyfile = {self._tls.keyfile}",
            f"ssl_options.verify = {'verify_peer' if self._tls.verify else 'verify_none'}",
            f"ssl_options.fail_if_no_peer_cert = {str(self._tls.verify).lower()}",
        ]

    def _env(self) -> dict[str, str]:
        """The whole environment of the node's programs; PATH is all that ours adds."""
        return {
            "HOME": str(self.base),
            "PATH": _PATH,
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._shared.port),
            "ERL_EPMD_ADDRESS": _HOST,
            "ERL_FLAGS": _ERL_FLAGS,
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": _HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.base),
            "RABBITMQ_LOG_BASE": str(self.base),
            "RABBITMQ_LOGS": str(self.log_path),
            "RABBITMQ_CONFIG_FILE": str(self.base / "rabbitmq"),
            # These do not exist, which keeps the system's from being read and every plugin off, unless one is wanted.
            "RABBITMQ_CONF_ENV_FILE": str(self.base / "env.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.base / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.base / "enabled_plugins"),
            # The start script then becomes the Erlang VM, so that the pid we hold is the VM's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _quick_boot(self, bin_: Path) -> dict[str, str]:
        """Settings that make modules quick to find (see _BUSIEST): the broker as the only plugin folder."""
        plugins = (bin_ / "rabbitmq-server").resolve().parents[1] / "plugins"
        erlang = Path(shutil.which("erl", path=_PATH) or "/bin/erl").resolve().parents[1] / "lib"
        own = self.base / "plugins"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        for app in plugins.glob("*-[0-9]*" if self._management else "rabbit-[0-9]*"):
            (own / app.name).symlink_to(app)
        apps = [app for name in _BUSIEST.split() for lib in (plugins, erlang) for app in lib.glob(f"{name}-[0-9]*")]
        first = " ".join(f"{app}/ebin" for app in apps)
        return {"RABBITMQ_PLUGINS_DIR": str(own), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-pa {first}"}

    def _launch(self, bin_: Path) -> None:
        """Start epmd and the broker, both as children of ours, and the guard that outlives us."""
        self._dismiss_guard()
        env = self._env()
        shared = self._shared
        shared.members.add(self.name)
        if shared.epmd is None or shared.epmd.poll() is not None:
            shared.epmd = self._spawn(env, "epmd", "-port", str(shared.port), "-address", _HOST)
        # The broker would start a daemon of its own if this one did not listen yet.
        self._wait(shared.epmd, lambda: _listens(shared.port), 10)
        self._beam = self._spawn(env | self._quick_boot(bin_), f"{bin_}/rabbitmq-server")
        doomed = [str(self._beam.pid), str(shared.epmd.pid), str(self.base) if self._temporary else ""]
        command = ["sh", "-c", _GUARD, "guard", *doomed]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def _spawn(self, env: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for us, and we stop the node in good order.
        with (self.base / "out").open("ab") as out:
            return subprocess.Popen(
                command,
                env=env,
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _wait(self, child: subprocess.Popen[bytes] | None, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            if child is None or child.poll() is not None:
                raise RabbitError(f"{self.name} died while starting:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise RabbitError(f"{self.name} was not ready in {timeout} s:\n{self._tail()}")
            time.sleep(0.05)

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.communicate(b"done\n")
            self._guard = None

    def _tail(self) -> str:
        files = (self.base / "out", self.log_path)
        return _last_lines("".join(f.read_text(errors="replace") for f in files if f.exists()))


class Cluster:
    """Private RabbitMQ nodes that form one cluster; as a context manager, started on entry and stopped on exit.

    Attributes:
        nodes: to be killed, frozen and restarted one by one. Keep a majority of them if quorum queues are to work.
        url: an AMQP URL with the hosts of all nodes.
    """

    def __init__(self, size: int = 3, name: str = "warren", extra_conf: str = "") -> None:
        shared = _Neighbourhood()
        self.nodes = [Node(name=f"{name}-{n}", extra_conf=extra_conf, neighbours=shared) for n in range(1, size + 1)]
        self.url = f"amqp://guest:guest@{','.join(f'{_HOST}:{node.port}' for node in self.nodes)}/"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes and join them to the first; RabbitError when one fails, and then all are stopped."""
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes[1:]:
                node.ctl("stop_app")
                node.ctl("join_cluster", self.nodes[0].name)
                node.ctl("start_app")
        except BaseException:
            self.stop()
            raise

    def mend(self) -> None:
        """Thaw and start what is frozen or down, and return when every node sees all the others."""
        for node in self.nodes:
            if node.running:
                node.thaw()
        for node in self.nodes:
            node.start()
        deadline = time.monotonic() + 60
        while not all(self._is_whole(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise RabbitError(f"the cluster is not whole again: {self.nodes[0].ctl('cluster_status')}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop all nodes; harmless when stopped already."""
        for node in self.nodes:
            if node.running:
                node.thaw()
        for node in reversed(self.nodes):
            node.stop()

    def _is_whole(self, node: Node) -> bool:
        running = "length([N || N <- [node() | nodes()], rabbit:is_running(N)])"  # the same on 3.10 and 4
        try:
            return node.eval(running) == str(len(self.nodes))
        except RabbitError:
            return False


def _end(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    """Signal our child and reap it, with SIGKILL when it has not obeyed in 30 s; None is ended already."""
    if process is None:
        return
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)  # a frozen process sees nothing but SIGKILL
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@functools.cache
def _block() -> Iterator[int]:
    """The ports of this process, round and round: a block that no other process has while this one lives.

    They are below those that Linux gives out by itself, so a port stays ours while nothing listens on it, between a
    node's `kill` and its `start`: no test that runs beside takes it, and no client that keeps dialling it meets itself.
    """
    folder = Path(tempfile.gettempdir()) / f"warren-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(_FIRST_PORT, _LAST_PORT, _BLOCK):
        held = os.open(folder / str(first), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
        else:
            return itertools.cycle(range(first, first + _BLOCK))  # the lock ends with the process
    raise RabbitError(f"all blocks of ports from {_FIRST_PORT} to {_LAST_PORT} are in use: {folder}")


def free_ports(count: int) -> list[int]:
    """Choose ports on loopback that nothing listens on and that are this process's own; RabbitError without any."""
    found = list(itertools.islice(filter(_is_free, itertools.islice(_block(), _BLOCK)), count))
    if len(found) < count:
        raise RabbitError(f"fewer than {count} of this process's {_BLOCK} ports are free")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the past do not count
        try:
            sock.bind((_HOST, port))
        except OSError:
            return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((_HOST, port)) == 0


def _speaks_amqp(port: int) -> bool:
    """Send the protocol header and look for Connection.Start (class 10, method 10) on channel 0."""
    try:
        with socket.create_connection((_HOST, port), timeout=2) as sock:
            sock.sendall(b"AMQP\x00\x00\x09\x01")
            answer = sock.recv(11, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 11 and struct.unpack(">BHxxxxHH", answer) == (1, 0, 10, 10)


def _last_lines(text: str, count: int = 30) -> str:
    return "\n".join(text.splitlines()[-count:])


def _run() -> None:
    with Node() as node:
        print(f"ready: {node.url}", flush=True)
        node.wait()
        raise RabbitError("the node died")


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="A private RabbitMQ node on loopback.")
    parser.add_argument("verb", choices=["install", "run"])
    verb = parser.parse_args().verb
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if verb == "run":
            _run()
        else:
            print(find_or_install())
    except RabbitError as error:
        sys.exit(f"rabbit: {error}")
    except KeyboardInterrupt:
        return 0 if verb == "run" else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
