"""The manifest of a checkpoint: facts of its run, size and hash of every file, its own hash.

Written last, so a folder with a manifest is complete. Hashes find what sizes cannot: torch.load
and safetensors both accept a flipped byte.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from ds_bert import files
from ds_bert.errors import CheckpointError

MANIFEST = "manifest.json"
VERSION = 1  # of checkpoints; a greater one is of a later ds_bert
_OWN_HASH = "manifest_xxh3_128"


def write_manifest(folder: Path, entries: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the manifest of a folder, forced to disk.

    Args:
        folder: a checkpoint with all of its files.
        entries: size and hash by relative name, as `files.seal_file` returns them.
        facts: plain values by name.
    """
    manifest = {**facts, "version": VERSION, "files": dict(sorted(entries.items()))}
    manifest[_OWN_HASH] = _hash(manifest)
    files.write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint; None where there is none, or a damaged one.

    Raises:
        CheckpointError: a later version of ds_bert has written it.
    """
    try:
        manifest = files.parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not _are_entries(manifest.get("files")):
        return None
    is_old = not {"version", _OWN_HASH} & manifest.keys()  # from before manifests had a hash
    if not is_old and manifest.pop(_OWN_HASH, None) != _hash(manifest):
        return None
    version = manifest.get("version", 1)
    if version != VERSION:
        raise CheckpointError(
            f"{folder} has version {version}, this ds_bert reads version {VERSION}; use the "
            "ds_bert that has written it"
        )
    return manifest


def damage(folder: Path, name: str, entry: dict[str, Any]) -> str | None:
    """What is wrong with one file of a checkpoint, or None."""
    path = folder / name
    try:
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, expected {entry['bytes']:,}"
        if files.hash_file(path) != entry["xxh3_128"]:
            return f"{name} does not match its checksum"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None


def _hash(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != _OWN_HASH}
    return xxhash.xxh3_128_hexdigest(json.dumps(rest, sort_keys=True).encode())


def _are_entries(entries: Any) -> bool:
    """Whether these can be the files of a checkpoint: at least one, none of them elsewhere."""
    return (
        isinstance(entries, dict)
        and len(entries) > 0
        and all(isinstance(entry, dict) for entry in entries.values())
        and all({"bytes", "xxh3_128"} <= entry.keys() for entry in entries.values())
        and not any(_leads_out(PurePosixPath(name)) for name in entries)
    )


def _leads_out(name: PurePosixPath) -> bool:
    return name.is_absolute() or ".." in name.parts
