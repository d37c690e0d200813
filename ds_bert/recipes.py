"""The recipes that come with ds_bert, found from any folder."""

from pathlib import Path

from ds_bert.errors import ConfigurationError

_IN_REPOSITORY = "ds_configs/"
# Beside the package: in a checkout as it is called there, else as setup.py installs it.
_FOLDERS = [Path(__file__).parent.parent / name for name in (_IN_REPOSITORY, "ds_bert_configs")]


def names() -> list[str]:
    """Names of all recipes, such as "seq128" and "demo/seq128"."""
    files = (path.relative_to(folder) for folder in _FOLDERS for path in folder.rglob("*.json"))
    return sorted(path.with_suffix("").as_posix() for path in files if path.name != "model.json")


def find(name: str) -> Path:
    """The file of a recipe; a file of the user's comes first.

    Args:
        name: a path, or the name of a recipe that comes with ds_bert.

    Raises:
        ConfigurationError: neither.
    """
    path = find_file(name)
    if not path.is_file() and name in names():
        path = find_file(f"{_IN_REPOSITORY}{name}.json")
    if not path.is_file():
        raise ConfigurationError(
            f'ds_config "{name}": no such file, and none of the recipes that come with ds_bert '
            f"({', '.join(names())}); give one of these names, or the path of a JSON file"
        )
    return path


def find_file(path: str) -> Path:
    """The file of this path or, if there is none, the one that stands there in the repository."""
    inside = path.removeprefix(_IN_REPOSITORY)
    if inside != path and not Path(path).exists():
        found = (folder / inside for folder in _FOLDERS if (folder / inside).is_file())
        return next(found, Path(path))
    return Path(path)
