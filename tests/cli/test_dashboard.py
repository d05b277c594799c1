"""``warren dashboard``: how it begins, and why it does not. What it shows is in tests/dashboard."""

import socket

from tests.cli.conftest import Run


def test_a_port_that_is_in_use_is_told_with_what_to_do(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("dashboard", "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in done.stderr
    assert "--port 0" in done.stderr


def test_a_token_that_can_be_guessed_is_refused(run: Run) -> None:
    done = run("dashboard", "--token", "secret")
    assert (done.returncode, done.stdout) == (2, "")
    assert "take a longer one" in done.stderr


def test_a_host_that_this_machine_does_not_have_is_told(run: Run) -> None:
    done = run("dashboard", "--host", "192.0.2.1", "--port", "0")
    assert (done.returncode, "cannot listen on 192.0.2.1:0" in done.stderr) == (1, True)


def test_a_wrong_url_is_told(run: Run) -> None:
    assert run("dashboard", "--url", "http://localhost").returncode == 2
