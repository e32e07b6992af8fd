"""A command's function in, the arguments that a command line or a YAML file gives it out.

An option is a parameter of the function: its type, default and help are those of the signature and
the docstring. A parameter whose type is a dataclass stands for a group of options (a retriever,
where the result goes), which are options of the command like all others.

To read a signature jsonargparse executes the `if TYPE_CHECKING:` blocks of the function's module,
and looks in its parent packages for something of the function's name (4.53, October 2026). Both
would make `--help` import `datasets` or torch. So a command's module has no such block, and its
function is called `command`, which is no public name of this package.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import itertools
import json
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter


class OptionError(Exception):
    """A command line or a configuration file that cannot be read, in one line."""


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults and types beside each option, and the description with its own line breaks."""


def read_arguments(
    function: Callable[..., Any], arguments: Sequence[str], program: str
) -> dict[str, Any]:
    """The keyword arguments of a function, as a command line gives them.

    Args:
        function: has plain types (`str`, `int`, `float`, `bool`, lists and dicts of them) and
            dataclasses of plain types, and a Google docstring.
        arguments: what follows the command's name. `--config FILE` reads options from YAML; what
            stands on the command line goes first.
        program: what the help calls the command.

    Raises:
        OptionError: an unknown or missing option, a value of another type, or a file that is no
            such YAML.
        SystemExit: after `--help` and `--print_config`, which write to the standard output.

    Example:
        >>> def repeat(text: str, times: int = 2, upper: bool = False) -> str: ...
        >>> read_arguments(repeat, ["--text", "ab", "--upper"], "repeat")
        {'text': 'ab', 'times': 2, 'upper': True}
    """
    hints = get_type_hints(function)
    hints.pop("return", None)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parser = make_parser(function, groups, program)
    kinds = dict(hints)
    for group in groups.values():
        kinds |= get_type_hints(group)
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in groups
    ]
    try:
        values = parser.parse_args(completed(named(arguments, required), kinds)).as_dict()
    except argparse.ArgumentError as error:
        said, hint = in_one_line(str(error), kinds), meant(str(error), kinds)
        raise OptionError(f"{said.rstrip('.')}.{hint}" if hint else said) from None
    except UnicodeDecodeError as error:
        raise OptionError(f"--config: the file is no text ({error})") from None
    for name, group in groups.items():
        fields = [field.name for field in dataclasses.fields(group)]
        values[name] = group(**{field: values[field] for field in fields})
    return {name: values[name] for name in hints}


def make_parser(
    function: Callable[..., Any], groups: Mapping[str, Any], program: str
) -> ArgumentParser:
    """The parser of a function's options."""
    parser = ArgumentParser(
        prog=program,
        description=(inspect.getdoc(function) or "").partition("\nArgs:\n")[0],
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with options by name")
    parser.add_function_arguments(function, as_group=False, skip=set(groups))
    for group in groups.values():
        parser.add_class_arguments(group)
    return parser


def named(arguments: Sequence[str], required: Sequence[str]) -> list[str]:
    """The arguments with the names of the required options before values that come first.

    Raises:
        OptionError: more such values than there are required options.

    Example:
        >>> named(["rows", "me/repo", "--private"], ["rows", "repo"])
        ['--rows', 'rows', '--repo', 'me/repo', '--private']
    """
    bare = [*itertools.takewhile(lambda argument: not argument.startswith("--"), arguments)]
    if len(bare) > len(required):
        known = ", ".join(f"--{name}" for name in required) or "none"
        raise OptionError(
            f"{bare[len(required)]!r} belongs to no option; those without a default: {known}"
        )
    pairs = ([f"--{name}", value] for name, value in zip(required, bare, strict=False))
    return [*itertools.chain(*pairs), *arguments[len(bare) :]]


def completed(arguments: Sequence[str], kinds: Mapping[str, Any]) -> list[str]:
    """The arguments as jsonargparse reads them, which wants a value after each option.

    Example:
        >>> completed(["--upper", "--margins", "0", "0.1"], {"upper": bool, "margins": list[float]})
        ['--upper=true', '--margins=[0, 0.1]']
    """
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([argument])
        else:
            options[-1].append(argument)
    read = []
    for option, *values in options:
        read += complete_option(option, values, kinds)
    return read


def complete_option(option: str, values: list[str], kinds: Mapping[str, Any]) -> list[str]:
    """One option with its values: a flag alone is true, several values are a list."""
    head, equals, value = option.partition("=")
    option = head.replace("-", "_").replace("__", "--", 1) + equals + value
    kind = _without_none(kinds.get(option.partition("=")[0].removeprefix("--")))
    if kind is bool and not values and not equals:
        return [f"{option}=true"]
    if get_origin(kind) is list and values and not values[0].startswith("["):
        items = [item for value in values for item in value.split(",") if item]
        written = json.dumps(items) if get_args(kind) == (str,) else f"[{', '.join(items)}]"
        return [f"{option}={written}"]
    return [option, *values]


def in_one_line(message: str, kinds: Mapping[str, Any]) -> str:
    """What jsonargparse says, shorter and with the option's name as the user writes it."""
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if key and value and key[1] in kinds:
        return f"--{key[1]} must be {in_words(kinds[key[1]])}, got {value[1]}"
    _, _, missing = message.partition("arguments are required: ")
    for name in missing.split(", "):
        if get_origin(_without_none(kinds.get(name))) is Literal:
            message += f"; --{name} must be {in_words(kinds[name])}"
    return " ".join(message.replace('Parser key "config": ', "--config: ").split())


def in_words(kind: Any) -> str:
    """A type as a user of the command line knows it.

    Example:
        >>> in_words(Literal["sum", "mean"]), in_words(dict[str, int] | None), in_words(int)
        ("one of 'sum', 'mean'", "as YAML '{name: value}'", 'int')
    """
    plain = _without_none(kind)
    if get_origin(plain) is Literal:
        return f"one of {', '.join(map(repr, get_args(plain)))}"
    if get_origin(plain) is dict:
        return "as YAML '{name: value}'"
    return inspect.formatannotation(kind).replace("typing.", "").replace("None", "null")


def meant(message: str, options: Collection[str]) -> str:
    """Which option a misspelt one is near to; empty where it is near to none.

    Example:
        >>> meant("unrecognized arguments: --modl x", ["model", "output"])
        ' Did you mean --model?'
    """
    unknown = re.search(r"(?:--|Key '|Option ')(\w+)", message)
    if unknown is None or unknown[1] in options:
        return ""
    near = difflib.get_close_matches(unknown[1], options, n=1)
    return f" Did you mean --{near[0]}?" if near else ""


def _without_none(kind: Any) -> Any:
    """`int` for `int | None`."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [part for part in get_args(kind) if part is not type(None)]
        return others[0] if len(others) == 1 else kind
    return kind
