"""The console command ds-bert: what there is, and the way to each command."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ds_bert import __version__, errors, recipes
from ds_bert.commands.parser import called

COMMANDS = {  # module of each
    "demo-corpus": "demo_corpus",
    "create-vocab": "create_vocab",
    "preprocess": "preprocess",
    "convert-data": "convert_data",
    "inspect": "inspect_data",
    "preflight": "preflight",
    "advise": "advise",
    "pretrain": "pretrain",
    "train": "train",
    "launch": "launch",
    "evaluate": "evaluate",
    "score": "score",
    "report": "report",
    "export": "export_hf",
    "average-checkpoints": "average_checkpoints",
    "convert-model": "convert_model",
    "replay": "replay",
}


def run() -> NoReturn:
    """The entry point (setup.py)."""
    errors.exit_with(main)


def main(argv: list[str] | None = None) -> int | None:
    """Call the command that the first argument names, or say which there are.

    Raises:
        ConfigurationError: no such command.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("\n".join(_overview()))
        return 0
    if name not in COMMANDS:
        hint = errors.suggest(name, COMMANDS)
        raise errors.ConfigurationError(f'ds-bert: unknown command "{name}"; {hint}')
    # Only now, and only this one: ds-bert answers at once.
    command = importlib.import_module(f"ds_bert.commands.{COMMANDS[name]}")
    return command.main(rest, f"ds-bert {name}")


def _overview() -> Iterator[str]:
    yield f"ds_bert {__version__}: pre-train a BERT on your own text\n"
    yield "Commands, each with a first example; ds-bert COMMAND --help says more.\n"
    for name, module in COMMANDS.items():
        summary, example = _summary(name, module)
        yield f"{name:21}{summary}\n{'':21}{example}\n"
    yield "Training with N processes on this machine, on several machines:\n"
    yield "  ds-bert launch --num_accelerators N --module ds_bert.train --ds_config RECIPE"
    yield "  ds-bert launch --hostfile hosts --module ds_bert.train --ds_config RECIPE\n"
    yield f"RECIPE is a JSON file, or one of these: {', '.join(recipes.names())}"


def _summary(name: str, module: str) -> tuple[str, str]:
    """First line and first example of a command's docstring, read without importing it."""
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    doc = called(ast.get_docstring(ast.parse(source)) or "", f"ds-bert {name}")
    summary, *lines = map(str.strip, doc.splitlines())
    example = next(line for line in lines if line.startswith(f"ds-bert {name}"))
    return summary, re.sub(" {2,}", "  ", example)
