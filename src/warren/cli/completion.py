"""``warren completion``: a script for a shell, made from the commands and their options as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import NamedTuple

from warren.cli import commands
from warren.cli.commands import below
from warren.cli.output import say
from warren.cli.parser import Offered, Parser

_EPILOG = """\
Examples:
  warren completion bash > ~/.local/share/bash-completion/completions/warren
  warren completion fish > ~/.config/fish/completions/warren.fish
  source <(warren completion bash)
  source <(warren completion zsh)

Exit codes:
  0  the script was printed
  2  wrong usage
  7  the output cannot be written
"""


class Words(NamedTuple):
    """What may follow a command: commands, each with what it does, and what its parser offers."""

    below: Mapping[str, str]
    offered: Offered


def add_completion(parser: Parser) -> None:
    """The arguments of `completion`."""
    parser.add_argument("shell", choices=tuple(_WRITERS), help="For which shell.")
    parser.explain(_EPILOG)
    parser.set_defaults(run=completion)


def completion(shell: str) -> None:
    """Print a script that completes commands and options in a shell."""
    say(_WRITERS[shell](_all_words()), end="")


def _all_words() -> dict[str, Words]:
    """By command; the first one has no name."""
    return {name: Words(below(name), _offered(name)) for name, command in commands.COMMANDS.items() if command.summary}


def _offered(name: str) -> Offered:
    module, summary = commands.COMMANDS[name]
    parser = Parser(name, summary, below(name))
    if module:
        import_module(f"warren.cli.{module}").COMMANDS[name](parser)
    return parser.offered()


def _bash(words: Mapping[str, Words]) -> str:
    cases = "\n".join(
        f"    {_quoted(name)}) commands={_quoted(' '.join([*of.below, *of.offered.arguments]))};"
        f" options={_quoted(' '.join(of.offered.options))} ;;"
        for name, of in words.items()
    )
    values = "\n".join(
        f'    {_quoted(f"{name} {option}".strip())}) COMPREPLY=($(compgen -W {_quoted(" ".join(found))} -- "$word"));'
        " return ;;"
        for name, of in words.items()
        for option, found in of.offered.values.items()
    )
    groups = "|".join(_quoted(name) for name, of in words.items() if name and of.below)
    return _BASH.format(cases=cases, values=values, groups=groups)


_BASH = """\
# bash completion for warren, written by `warren completion bash`
_warren() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= commands= options= at
  COMPREPLY=()
  for ((at = 1; at < COMP_CWORD; at++)); do
    case ${{COMP_WORDS[at]}} in -*) continue ;; esac
    if [ -z "$command" ]; then command=${{COMP_WORDS[at]}}
    else
      case $command in {groups}) command="$command ${{COMP_WORDS[at]}}" ;; esac
      break
    fi
  done
  case "$command $before" in
{values}
  esac
  case $command in
{cases}
  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$commands" -- "$word")) ;;
  esac
}}
complete -o default -F _warren warren
"""


def _zsh(words: Mapping[str, Words]) -> str:
    return "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(words)


def _fish(words: Mapping[str, Words]) -> str:
    lines = ["# fish completion for warren, written by `warren completion fish`", "complete -c warren -f"]
    for name, of in words.items():
        when = _fish_condition(name)
        lines += [
            f"complete -c warren -n {when} -a {_quoted(one)} -d {_quoted(what)}" for one, what in of.below.items()
        ]
        lines += (
            [f"complete -c warren -n {when} -a {_quoted(' '.join(of.offered.arguments))}"]
            if of.offered.arguments
            else []
        )
        for option, what in of.offered.options.items():
            dash = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            given = f" -x -a {_quoted(' '.join(of.offered.values[option]))}" if option in of.offered.values else ""
            lines.append(f"complete -c warren -n {when} {dash}{given} -d {_quoted(what)}")
    return "\n".join([*lines, ""])


def _fish_condition(name: str) -> str:
    if not name:
        return "__fish_use_subcommand"
    return _quoted("; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split()))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_WRITERS: Mapping[str, Callable[[Mapping[str, Words]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
COMMANDS = {"completion": add_completion}
