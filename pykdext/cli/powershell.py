"""Completion for PowerShell, which shtab does not know: a native argument completer with the words of the parser.

Source: the PowerShell documentation (Register-ArgumentCompleter). Where nothing is offered, PowerShell offers files.
"""

from __future__ import annotations

import argparse
from typing import Dict, Iterable, Iterator, Sequence, Tuple

_SCRIPT = """\
# Completes the commands, options and choices of poolleak. Add it to the file that $PROFILE names.
Register-ArgumentCompleter -Native -CommandName poolleak -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @{
%s
    }
    $typed = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($wordToComplete -and $typed.Count -gt 0) { $typed = @($typed | Select-Object -SkipLast 1) }
    $command = if ($typed.Count -gt 0 -and $words.ContainsKey($typed[0])) { $typed[0] } else { '' }
    $last = if ($typed.Count -gt 0) { $typed[-1] } else { '' }
    $choices = "$command $last".Trim()
    $key = if ($last.StartsWith('-') -and $words.ContainsKey($choices)) { $choices } else { $command }
    $words[$key] | Where-Object { $_.StartsWith($wordToComplete) } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
"""


def render_completion(parser: argparse.ArgumentParser) -> str:
    """The script; ``parser`` is that of the whole command line, with its commands as subparsers."""
    words: Dict[str, Sequence[str]] = {}
    commands = _find_commands(parser)
    words[""] = [*commands, *_list_options(parser)]
    for name, command in commands.items():
        words[name] = [*_list_positional_choices(command), *_list_options(command)]
        words.update(_iter_choices(name, command))
    lines = (f"        {_quote(key)} = @({', '.join(map(_quote, offered))})" for key, offered in words.items())
    return _SCRIPT % "\n".join(lines)


def _find_commands(parser: argparse.ArgumentParser) -> Dict[str, argparse.ArgumentParser]:
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: command for action in actions for name, command in action.choices.items()}


def _list_options(parser: argparse.ArgumentParser) -> Sequence[str]:
    return [action.option_strings[-1] for action in parser._actions if action.option_strings]


def _list_positional_choices(parser: argparse.ArgumentParser) -> Sequence[str]:
    return [
        str(choice) for action in parser._actions if not action.option_strings for choice in _iter_words(action.choices)
    ]


def _iter_choices(name: str, parser: argparse.ArgumentParser) -> Iterator[Tuple[str, Sequence[str]]]:
    for action in parser._actions:
        for option in action.option_strings:
            if action.choices:
                yield f"{name} {option}", [str(choice) for choice in action.choices]


def _iter_words(choices: object) -> Iterable[object]:
    return choices if isinstance(choices, (list, tuple, dict)) else ()


def _quote(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"
