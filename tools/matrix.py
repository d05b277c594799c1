"""The contract and fault suites on newer RabbitMQ releases, each from a Debian suite in a chroot of its own.

    python tools/matrix.py [--only SUITE] [PYTEST ARGUMENTS]     without a path: tests/contract tests/faults

Root only, on Debian or the like: a chroot takes half a minute and half a gigabyte, and is kept in ``.matrix`` for the
next time. Packages come from the mirror that apt is set up with; nothing is installed on the machine and no service is
started. Each node runs as its test's child, in a mount namespace of its own that ends with it. Standard library only.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / ".matrix"
#: Debian's suites and the RabbitMQ that they have: 4.0 and 4.3 when this was written.
SUITES = ("trixie", "sid")
DEFAULT = ["tests/contract", "tests/faults"]

# The exec chain keeps the process id, so that a test's kill and freeze hit the Erlang VM. /proc, where RabbitMQ looks
# for memory, and the folder of the node's data, which has the same path inside, are mounted in a namespace that is gone
# when the process ends. The quick boot of rabbit.py names the host's folders, which mean nothing inside.
_WRAPPER = """\
#!/bin/sh
unset RABBITMQ_PLUGINS_DIR RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS
exec unshare -m sh -c '
mount -t proc proc "$0/proc" && mkdir -p "$0$1" && mount --bind "$1" "$0$1" || exit 1
shift
exec chroot "$0" "$@"' '{chroot}' '{shared}' '{program}' "$@"
"""
_PROGRAMS = ("rabbitmq-server", "rabbitmqctl")


class MatrixError(RuntimeError):
    """A chroot cannot be made; the text says why."""


def build(suite: str) -> Path:
    """The chroot of a suite with RabbitMQ installed in it, made if it is not there yet."""
    chroot = MATRIX / suite
    if (MATRIX / f"{suite}.ready").exists():
        return chroot
    shutil.rmtree(chroot, ignore_errors=True)
    chroot.mkdir(parents=True)
    print(f"{suite}: making a chroot", flush=True)
    _debootstrap(suite, chroot)
    policy = chroot / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # the package must not start a broker
    policy.chmod(0o755)
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", chroot / "etc")
    install = ["apt-get", "-q", "install", "-y", "--no-install-recommends", "rabbitmq-server"]
    _run("chroot", str(chroot), *install, env={"DEBIAN_FRONTEND": "noninteractive"})
    (MATRIX / f"{suite}.ready").touch()
    return chroot


def _debootstrap(suite: str, chroot: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Its package unpacked, not installed: the machine stays as it is.
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "debootstrap", cwd=folder)
        package = next(Path(folder).glob("debootstrap_*.deb"))
        _run("dpkg", "-x", str(package), folder)
        architecture = _run("dpkg", "--print-architecture").strip()
        program = f"{folder}/usr/sbin/debootstrap"
        options = ["--variant=minbase", f"--arch={architecture}", suite, str(chroot), _mirror()]
        _run(program, *options, env={"DEBOOTSTRAP_DIR": f"{folder}/usr/share/debootstrap"})


def _mirror() -> str:
    sites = _run("apt-get", "indextargets", "--format", "$(SITE)").splitlines()
    mirror = next((site for site in sites if site.rstrip("/").endswith("/debian")), None)
    if mirror is None:
        raise MatrixError("apt has no Debian mirror in its sources")
    return mirror


def wrap(suite: str, chroot: Path) -> Path:
    """A folder with programs that run those of the chroot, for `RABBITMQ_BIN`; named as RabbitMQ's own folder is."""
    homes = sorted((chroot / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    if not homes:
        raise MatrixError(f"there is no RabbitMQ in {chroot}: remove it")
    folder = MATRIX / f"{suite}-bin" / homes[-1].name / "sbin"
    folder.mkdir(parents=True, exist_ok=True)
    for program in _PROGRAMS:
        inside = f"/usr/lib/rabbitmq/lib/{homes[-1].name}/sbin/{program}"
        text = _WRAPPER.format(chroot=chroot, shared=tempfile.gettempdir(), program=inside)
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    return folder


def _run(*command: str, cwd: str | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        text = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise MatrixError(f"{' '.join(command)} failed:\n{text}")
    return done.stdout


def chosen(arguments: list[str]) -> list[str]:
    """What pytest is told: options alone are no choice of tests, and the others are not made for other brokers."""
    named = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments if not argument.startswith("-"))
    return arguments if named else [*arguments, *DEFAULT]


def check(suite: str, arguments: list[str]) -> bool:
    """Run pytest against a suite's RabbitMQ; whether all is well."""
    folder = wrap(suite, build(suite))
    print(f"== {folder.parent.name} ({suite})", flush=True)
    command = [sys.executable, "-m", "pytest", *chosen(arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"RABBITMQ_BIN": str(folder)}).returncode == 0


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="The tests on newer RabbitMQ releases.")
    parser.add_argument("--only", choices=SUITES, action="append", help="this suite alone")
    given, arguments = parser.parse_known_args()
    if os.geteuid() != 0:
        sys.exit("matrix: chroots take root")
    try:
        results = {suite: check(suite, arguments) for suite in given.only or SUITES}
    except MatrixError as error:
        sys.exit(f"matrix: {error}")
    for suite, well in results.items():
        print(f"{suite}: {'passed' if well else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
