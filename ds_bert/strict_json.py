"""JSON files that people write, read strictly: no key twice, no unknown one, no NaN."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ds_bert.errors import ConfigurationError, require, suggest
from ds_bert.files import parse_json


def load_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object strictly: no duplicate keys, no NaN, no comments.

    Raises:
        ConfigurationError: names the file and, for bad JSON, line and column.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = parse_json(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ConfigurationError(f"{path}: not valid JSON, {error.msg} at {where}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: found {type(value).__name__}, expected a JSON object")
    return value


def check_keys(found: Any, allowed: Iterable[str], where: str) -> None:
    """Refuse keys that are not allowed, naming the nearest one that is."""
    require(isinstance(found, dict), where, found, "an object")
    allowed = list(allowed)
    for key in found:
        if key not in allowed:
            raise ConfigurationError(f'{where}: unknown key "{key}"; {suggest(key, allowed)}')


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'key "{twice}" appears twice; keep one')
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
