"""``warren call``: what is typed, what is printed, and the exit codes."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import PATIENCE, SERVICE, WARREN, Result, Running, environment, eventually, run_here
from warren import Progress
from warren.cli.call import _as_text, _print_result
from warren.cli.progress import line
from warren.cli.terminal import exit_code
from warren.errors import CallError, Cancelled, Code, Overloaded, WorkerLost, make_error

NAME = f"svc-{os.getpid()}-call"
Call = Callable[..., Result]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[Path]:
    """One worker for all tests of this module; the folder it runs in."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "calc.py").write_text(SERVICE.format(name=NAME))
    serve = Running("serve", "calc:service", cwd=folder, env=environment(WARREN_URL=url))
    try:
        serve.wait_worker(1)
        yield folder
    finally:
        serve.close()


@pytest.fixture
def call(served: Path, url: str) -> Call:
    """``warren call METHOD …`` on the service, in this process."""

    def call(method: str, *args: str, url: str = url) -> Result:
        target = f"{NAME}.{method}" if method else NAME
        return run_here(["call", target, *args], WARREN_URL=url)

    return call


def test_the_result_is_all_that_is_printed(call: Call) -> None:
    done = call("fib", "30")
    assert (done.stdout, done.stderr, done.exit_code) == ("832040\n", "", 0)


def test_a_result_that_cannot_be_written_is_no_error_of_the_handler(served: Path, url: str) -> None:
    command = [*WARREN, "call", f"{NAME}.fib", "30"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, env=environment(WARREN_URL=url), stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE
        )

    assert done.returncode == 7
    assert b"cannot write the output: No space left" in done.stderr


def test_arguments_may_be_given_by_name(call: Call) -> None:
    assert call("fib", "n=30").stdout == "832040\n"
    assert call("greet", "greeting=Ahoy", "name=Ann").stdout == "Ahoy, Ann!\n"


def test_arguments_are_json_and_what_is_not_is_text(call: Call) -> None:
    assert call("describe", '{"a": [1, 2]}').stdout == '{"got":{"a":[1,2]}}\n'
    assert call("greet", "name=Ann Smith = me", 'greeting="30"').stdout == "30, Ann Smith = me!\n"


def test_a_negative_number_is_an_argument_and_no_option(call: Call) -> None:
    assert "n must be at least 0" in call("fib", "-5").stderr


def test_text_is_printed_plain_and_quoted_with_json(call: Call) -> None:
    assert call("greet", "Ann").stdout == "Hello, Ann!\n"
    assert call("greet", "Ann", "--json").stdout == '"Hello, Ann!"\n'


def test_a_terminal_gets_the_result_in_many_lines(served: Path, url: str) -> None:
    ours, theirs = pty.openpty()
    command = [*WARREN, "call", f"{NAME}.describe", '{"a": [1, 2]}']
    env = environment(WARREN_URL=url, NO_COLOR="1", TERM="dumb")
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, timeout=PATIENCE)
    os.close(theirs)
    output = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while data := terminal.read(4096):
                output += data
        except OSError:  # how Linux ends a terminal that nobody writes to any more
            pass
    assert done.returncode == 0
    assert output.decode().splitlines()[:2] == ["{", '  "got": {']


@pytest.mark.parametrize(
    ("method", "args", "code", "words"),
    [
        ("fail", [], 1, "RuntimeError: the handler's own trouble [UNKNOWN/HANDLER_EXCEPTION, execution EXECUTED"),
        ("fib", ["91"], 2, "n must be at most 90; the signature is fib(n: int) ["),
        ("fib", ["30", "31"], 2, "INVALID_ARGUMENT/VALIDATION, execution NOT_EXECUTED"),
        ("nothing", [], 2, "UNIMPLEMENTED/METHOD, execution NOT_EXECUTED"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(call: Call, method: str, args: list[str], code: int, words: str) -> None:
    done = call(method, *args)
    assert done.exit_code == code
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.startswith(f"error: {NAME}.{method}: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_service_that_nobody_serves_exits_3(call: Call) -> None:
    done = call("x.fib", "30")
    assert done.exit_code == 3
    assert "UNAVAILABLE/NO_ROUTE" in done.stderr


def test_a_deadline_that_passes_exits_4(call: Call, tmp_path: Path) -> None:
    done = call("hold", str(tmp_path / "held"), "--timeout", "2")
    (tmp_path / "held.go").touch()
    assert done.exit_code == 4
    assert "DEADLINE_EXCEEDED" in done.stderr


def test_a_wrong_password_exits_5_with_one_line(call: Call, url: str) -> None:
    done = call("fib", "30", url=url.replace("guest:guest", "guest:wrong"))
    assert done.exit_code == 5
    assert len(done.stderr.splitlines()) == 1
    assert "refuses user 'guest'" in done.stderr


def test_a_broker_out_of_reach_is_told_at_once_and_exits_3(call: Call) -> None:
    done = call("fib", "30", "--timeout", "1000", "--url", "amqp://127.0.0.1:1")  # pytest gives up sooner
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "connection refused" in done.stderr


def test_ctrl_c_exits_130(served: Path, url: str, tmp_path: Path) -> None:
    call = Running("call", f"{NAME}.hold", str(tmp_path / "held"), cwd=tmp_path, env=environment(WARREN_URL=url))
    eventually((tmp_path / "held").exists, "the handler has begun")
    call.signal(signal.SIGINT)
    assert call.wait() == 130
    call.close()
    (tmp_path / "held.go").touch()
    assert call.output == "error: interrupted; its worker is told, and the handler may still run\n"


def test_what_a_method_yields_is_printed_line_by_line(call: Call) -> None:
    assert call("count", "3") == Result('{"n":0}\n{"n":1}\n{"n":2}\n', "", 0)
    assert call("count", "0") == Result("", "", 0)
    assert call("words").stdout == "one\ntwo\n"
    assert call("words", "--json").stdout == '"one"\n"two"\n'


def test_progress_is_drawn_on_a_terminal_and_taken_away(served: Path, url: str) -> None:
    ours, theirs = pty.openpty()
    command = [*WARREN, "call", f"{NAME}.work", "4"]
    done = subprocess.run(
        command, env=environment(WARREN_URL=url), stdout=subprocess.PIPE, stderr=theirs, timeout=PATIENCE
    )
    drawn = os.read(ours, 65536).decode()
    os.close(theirs)
    os.close(ours)
    assert done.stdout == b"done\n"
    assert f"\r[{'#' * 24}] 100 %  4/4  step\\x1b[31m\x1b[K" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_progress_is_not_drawn_into_a_file(call: Call) -> None:
    assert call("work", "4") == Result("done\n", "", 0)


@pytest.mark.parametrize(
    ("said", "width", "shown"),
    [
        (Progress(3), 80, "3"),
        (Progress(1, 2), 80, f"[{'#' * 12}{' ' * 12}]  50 %  1/2"),
        (Progress(0, 0, "all"), 80, f"[{'#' * 24}] 100 %  0/0  all"),
        (Progress(3, None, "a long message"), 6, "3  a l"),
        (Progress(3), -1, ""),
    ],
)
def test_a_line_of_progress_fits_the_terminal(said: Progress, width: int, shown: str) -> None:
    assert line(said, width) == shown


def test_arguments_that_do_not_fit_a_stream_are_told_as_of_a_call(call: Call) -> None:
    done = call("count", "many")
    assert done.exit_code == 2
    assert "to must be an int" in done.stderr


def test_a_method_that_takes_items_is_refused_with_what_to_call_it_with(call: Call) -> None:
    done = call("total")
    assert (done.stdout, done.exit_code) == ("", 2)
    assert "the method takes items and has one result" in done.stderr
    assert "call it from a program, with client.upload" in done.stderr


def test_ctrl_c_ends_a_stream_at_its_worker(served: Path, url: str, tmp_path: Path) -> None:
    args = (f"{NAME}.count", "1000000000", str(tmp_path / "left"), "--timeout", "1000")
    call = Running("call", *args, cwd=tmp_path, env=environment(WARREN_URL=url))
    call.wait_for(r'{"n":9}')
    call.signal(signal.SIGINT)
    assert call.wait() == 130
    call.close()
    eventually((tmp_path / "left").exists, "the generator is closed")
    assert call.output.endswith("\nerror: interrupted; the worker is told to stop\n")


def error(code: Code) -> CallError:
    return make_error(code, "REASON", "")


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Overloaded(""), 3),
        (WorkerLost(""), 3),
        (error(Code.UNAUTHENTICATED), 5),
        (error(Code.INTERNAL), 6),
        (error(Code.FAILED_PRECONDITION), 6),
        (Cancelled(""), 6),
    ],
)
def test_every_ending_has_its_exit_code(ending: CallError, code: int) -> None:
    assert exit_code(ending) == code


def test_with_json_an_error_is_json_on_stdout(call: Call) -> None:
    done = call("fail", "--json")
    told: dict[str, Any] = json.loads(done.stdout)["error"]
    assert done.exit_code == 1
    assert told.pop("call_id")
    assert told == {
        "code": "UNKNOWN",
        "reason": "HANDLER_EXCEPTION",
        "execution": "EXECUTED",
        "origin": "handler",
        "message": "RuntimeError: the handler's own trouble",
        "method": f"{NAME}.fail",
        "queue": NAME,
        "safe_to_retry": False,
        "type": "RuntimeError",
        "details": ["the handler's own trouble"],
        "traceback": None,
    }


def test_headers_reach_the_handler(call: Call) -> None:
    assert call("header", "tenant", "--header", "tenant=42", "--header", "b=c").stdout == "42\n"


def test_arguments_may_travel_as_msgpack(call: Call) -> None:
    assert call("describe", '{"a": [1]}', "--encoding", "msgpack").stdout == '{"got":{"a":[1]}}\n'


def test_a_cast_says_what_was_done_and_is_run(call: Call, tmp_path: Path) -> None:
    done = call("write", str(tmp_path / "note"), "hello", "--cast")
    assert (done.stdout, done.exit_code) == ("", 0)
    assert done.stderr == (
        f"sent: the broker has the request of {NAME}.write, and nobody hears how it ends; if it fails, it is in:"
        f" warren dead list {NAME}\n"
    )
    eventually((tmp_path / "note").exists, "the handler has run")
    assert (tmp_path / "note").read_text() == "hello"


def test_a_bare_call_sends_text_and_prints_text(call: Call) -> None:
    assert call("", "--bare", "30").stdout == "832040\n"
    refused = call("", "--bare", "abc")
    assert refused.exit_code == 2
    assert "n must be an int, not a str" in refused.stderr


def test_a_bare_answer_that_is_no_text_is_printed_as_it_is(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    _print_result(_as_text(b"\xff\xd8"), as_json=False)
    assert capsysbinary.readouterr().out == b"\xff\xd8\n"


def test_the_url_option_beats_the_environment(call: Call, url: str) -> None:
    assert call("fib", "30", "--url", url, url="amqp://127.0.0.1:1").stdout == "832040\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["calc.fib", "30", "n=30"], "either all by position or all by name"),
        (["calc.fib", "n=30", "n=31"], "given twice"),
        (["calc.fib", "30", "--jsn"], "there is no option --jsn (did you mean --json?)"),
        (["calc.fib", "--header", "tenant"], "--header tenant: say name=text"),
        (["calc.fib", "--timeout", "0"], "timeout=0.0 must be more than 0"),
        (["calc.fib", "--timeout", "soon"], "'soon' is not a number"),
        (["calc.fib", "--url", "http://x"], "is not an AMQP URL"),
        (["--jsn", "calc.fib"], "there is no option --jsn (did you mean --json?)"),
        (["fib", "30"], "say 'service.method', for example 'calc.fib'"),
        (["--bare", "rpc_queue", "1", "2"], "give at most one argument"),
        (["--bare", "--jsn", "1"], "there is no option --jsn (did you mean --json?)"),
        (["--bare", "--cast", "rpc_queue", "1"], "without --cast"),
        ([], "arguments are required: SERVICE.METHOD; see warren call --help"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_opened(args: list[str], words: str) -> None:
    result = run_here(["call", *args], WARREN_URL="amqp://127.0.0.1:1")
    assert result.exit_code == 2
    assert words in result.stderr
