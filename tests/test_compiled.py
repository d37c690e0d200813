"""Compiled functions are kept, and never run after what they depend on has changed."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from test_architecture import HOUSE, modules, uses

from ds_bert import compiled as module
from ds_bert.compiled import compiled, stamp
from ds_bert.files import cache_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to keep things in."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    caches = (module._folder, module._tell)
    for cached in caches:
        cached.cache_clear()
    yield tmp_path / "kept"
    for cached in caches:
        cached.cache_clear()


def doubled():
    """A fresh dispatcher, as in a new process."""

    @compiled
    def double(number):
        return 2 * number

    return double


def hits(dispatcher) -> int:
    """How many compiled forms were found, not made."""
    return sum(dispatcher.stats.cache_hits.values())


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_was_compiled_is_found_again(folder):
    first, second = doubled(), doubled()
    assert (first(21), hits(first), len(files(folder))) == (42, 0, 1)
    assert (second(21), hits(second)) == (42, 1)


def test_other_argument_types_and_settings_are_other_code(folder, monkeypatch):
    doubled()(21)
    assert doubled()(0.5) == 1.0
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    third = doubled()
    assert (third(21), hits(third), len(files(folder))) == (42, 0, 3)


@pytest.mark.parametrize("place", [0, 20, -1])
def test_damaged_code_is_compiled_anew(folder, place):
    doubled()(21)
    (file,) = files(folder)
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[place] ^= 1
    for bad in (bytes(damaged), content[: len(content) // 2], b"", b"garbage"):
        file.write_bytes(bad)
        again = doubled()
        assert (again(21), hits(again)) == (42, 0)
        assert hits(found := doubled()) == 0 and found(21) == 42 and hits(found) == 1


def test_without_a_writable_folder_it_is_said_once(folder, capsys):
    folder.write_text("no folder")
    assert doubled()(21) == 42 and doubled()(0.5) == 1.0
    note = f"note: compiled functions cannot be kept in {folder} ("
    assert capsys.readouterr().err.startswith(note)
    assert doubled()(21) == 42 and not capsys.readouterr().err


def test_only_one_rank_says_it(folder, capsys, monkeypatch):
    folder.write_text("no folder")
    monkeypatch.setenv("RANK", "1")
    assert doubled()(21) == 42
    assert not capsys.readouterr().err


def test_full_disk_leaves_nothing_half_written(folder, capsys, monkeypatch):
    def write_half(path, content):
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    assert doubled()(21) == 42
    assert not files(folder)
    assert "No space left on device" in capsys.readouterr().err


def test_old_versions_of_a_module_go(folder):
    old = [folder / f"tests.test_compiled-{number:02}" for number in range(12)]
    for age, path in enumerate(reversed(old)):
        path.mkdir(parents=True)
        os.utime(path, (10**9 - age, 10**9 - age))
    (folder / "rng.streams-00").mkdir()
    doubled()(21)
    assert [path for path in old if path.exists()] == old[-module.KEPT_VERSIONS + 1 :]
    assert (folder / "rng.streams-00").exists() and files(folder)


def test_user_without_a_home(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(OSError):
        cache_folder().mkdir(parents=True)


def test_stamp_covers_all_that_a_module_uses():
    for path in modules().values():
        assert module._uses(path) == {modules()[name] for name in uses(path)}, path


def test_stamp_changes_with_files_further_away(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HOUSE", tmp_path)
    for name, text in (
        ("a", "from ds_bert import b"),
        ("b", "from ds_bert.c import N"),
        ("c", "N=1"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    before = stamp(tmp_path / "a.py")
    (tmp_path / "c.py").write_text("N=2")
    module._read.cache_clear()
    module._uses.cache_clear()
    assert stamp(tmp_path / "a.py") != before


def test_compiled_is_the_only_way():
    named = [path.name for path in HOUSE.rglob("*.py") if "njit" in path.read_text("utf-8")]
    assert named == ["compiled.py"]


def test_edit_of_a_used_file_changes_the_result(tmp_path):
    """The one with real processes: a constant two files away."""
    package = tmp_path / "ds_bert"
    package.mkdir()
    for name in ("__init__", "errors", "files", "compiled"):
        shutil.copy(HOUSE / f"{name}.py", package)
    head = "from ds_bert.compiled import compiled\n"
    (package / "callee.py").write_text(
        f"{head}from ds_bert.constants import N\n@compiled\ndef callee(): return N\n"
    )
    (package / "caller.py").write_text(
        f"{head}from ds_bert.callee import callee\n@compiled\ndef caller(): return callee()\n"
    )
    environment = {
        **{name: text for name, text in os.environ.items() if name != "NUMBA_CACHE_DIR"},
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    code = (
        "from ds_bert.caller import caller; print(caller(), sum(caller.stats.cache_hits.values()))"
    )

    def result(constant: int) -> str:
        (package / "constants.py").write_text(f"N = {constant}\n")
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True).strip()

    assert [result(1), result(1), result(2)] == ["1 0", "1 1", "2 0"]
