"""What runs on a machine: versions of packages, the sources of ds_bert and their commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import xxhash

PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "numba")
_HOUSE = Path(__file__).parents[1]


def packages() -> dict[str, str]:
    """Version of each package that a result depends on, "none" where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def hash_of_sources() -> str:
    """Over names and contents; a checkout and an installed wheel of it give the same."""
    digest = xxhash.xxh3_128()
    for package in ("ds_bert", "ds_bert_kernels"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """The commit of the sources, "-dirty" where they have changed since; None outside of git."""
    git = ["git", "-C", str(_HOUSE)]
    commands = ([*git, "rev-parse", "HEAD"], [*git, "status", "--porcelain", ".", "../kernels"])
    try:
        found, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found}-dirty" if changes else found
