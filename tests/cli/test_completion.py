"""Shell completion: what bash offers after what was typed, and that the other scripts know the same."""

import re
import subprocess

import pytest

from tests.cli.running import run_here
from warren.cli.commands import COMMANDS

_ASK = """
source /dev/stdin <<< "$SCRIPT"
COMP_WORDS=(warren $TYPED)
[ "${TYPED% }" = "$TYPED" ] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_warren
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str) -> str:
    done = run_here(["completion", shell])
    assert (done.stderr, done.exit_code) == ("", 0)
    return done.stdout


def offered(typed: str) -> list[str]:
    """What bash offers for the last word of what was typed; a blank in the end begins a new one."""
    environment = {"SCRIPT": script("bash"), "TYPED": typed, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", _ASK], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("pi", ["ping"]),
        ("dead re", ["retry"]),
        ("--help de", ["dead", "demo"]),
        ("graph --form", ["--format"]),
        ("graph --format s", ["svg"]),
        ("dead list --only ", ["calls", "casts"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("ping calc --w", ["--wait"]),
        ("ping calc pi", []),
        ("no-such-command ", []),
    ],
)
def test_bash_offers_what_may_follow(typed: str, words: list[str]) -> None:
    assert offered(typed) == words


def test_bash_offers_all_commands_that_are_shown() -> None:
    alone = {name for name, command in COMMANDS.items() if command.summary and len(name.split()) == 1}
    assert set(offered(" ")) == alone


def test_zsh_runs_the_same_and_fish_has_a_line_for_each() -> None:
    assert script("zsh").endswith(script("bash"))
    fish = script("fish")
    assert all(re.search(rf"-a '{name}'", fish) for name in COMMANDS if name.isalpha() and COMMANDS[name].summary)
    assert "%(" not in fish
    assert re.search(r"seen_subcommand_from graph' -l format -x -a 'text mermaid dot json svg'", fish)
