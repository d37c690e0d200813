"""Which sources run."""

import subprocess

from ds_bert.preflight import software


def git(folder, *words):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *name, "-C", folder, *words], check=True, capture_output=True)


def test_the_commit_tells_whether_the_sources_have_changed(tmp_path, monkeypatch):
    source = tmp_path / "ds_bert/training/run.py"
    source.parent.mkdir(parents=True)
    source.write_text("x = 1\n")
    monkeypatch.setattr(software, "_HOUSE", tmp_path / "ds_bert")
    assert software.commit() is None
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    commit = software.commit()
    assert len(commit) == 40
    (tmp_path / "notes.txt").write_text("no source")
    assert software.commit() == commit
    source.write_text("x = 2\n")
    assert software.commit() == f"{commit}-dirty"


def test_packages_that_are_absent():
    assert software.packages().keys() == set(software.PACKAGES)
    assert software._version("no-such-package") == "none"
