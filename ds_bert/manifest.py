"""Committing a folder of files: sizes and hashes in a manifest, fsync, one rename.

A folder with a manifest is complete; whatever a crash leaves behind has none. Hashes find what
sizes cannot: torch.load and safetensors both accept a flipped byte.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import xxhash

MANIFEST = "manifest.json"


def list_files(folder: Path) -> list[str]:
    """All files below `folder` but the manifest, as sorted relative names."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != MANIFEST)


def seal_file(path: Path) -> dict[str, Any]:
    """Force a file to disk and return its manifest entry: size in bytes and xxh3 hash."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "xxh3_128": _hash(path)}


def publish(temporary: Path, final: Path, files: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the manifest and rename `temporary` to `final`, each step forced to disk."""
    write_text(temporary / MANIFEST, json.dumps({**facts, "files": files}, indent=1))
    for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    if final.exists():
        discard(final)
    os.rename(temporary, final)
    sync_folder(final.parent)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "files" in manifest else None


def damage(folder: Path, name: str, entry: dict[str, Any]) -> str | None:
    """What is wrong with one file of a folder, or None."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{name} has {path.stat().st_size:,} bytes, expected {entry['bytes']:,}"
    if _hash(path) != entry["xxh3_128"]:
        return f"{name} does not match its checksum"
    return None


def discard(folder: Path) -> None:
    """Remove a folder so that a crash halfway leaves nothing that looks complete."""
    doomed = folder.with_name(f".{folder.name}.deleting")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically and force it to disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (names, renames) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
