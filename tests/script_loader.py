"""Loads files that are no modules of the package, without running them as commands."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def load_file(path: Path) -> ModuleType:
    """A file as a module."""
    # As part of a package, so that a command does not take its folder off sys.path.
    name = f"{path.parent.name}.{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def load_script(name: str) -> ModuleType:
    """The command scripts/<name>.py."""
    return load_file(SCRIPTS / f"{name}.py")
