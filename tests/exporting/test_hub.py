"""Pushing: on request only, checked before the work, a branch for each step."""

import pytest
from data_util import exit_code
from export_util import data_of, make_run

from ds_bert.commands.export_hf import main
from ds_bert.exporting import hub


class Hub:
    """A stand-in for HfApi with one repository: files by revision."""

    calls: list
    revisions: dict
    fails_at: str

    def _note(self, name, *what):
        self.calls.append((name, *what))
        if name == self.fails_at:
            raise hub.HfHubHTTPError("403 Forbidden: no write access", response=_Response())

    def whoami(self):
        self._note("whoami")

    def create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        self._note("create_repo", repo_id, private)

    def create_branch(self, repo_id, branch, exist_ok):
        assert exist_ok
        self._note("create_branch", branch)
        self.revisions.setdefault(branch, dict(self.revisions["main"]))

    def upload_folder(self, repo_id, folder_path, revision, commit_message, delete_patterns):
        self._note("upload_folder", revision)
        files = [path for path in folder_path.rglob("*") if path.is_file()]
        names = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}
        self.revisions.setdefault(revision, {}).update(names)


class _Response:
    headers: dict = {}  # noqa: RUF012
    request = None
    status_code = 403


@pytest.fixture
def api(monkeypatch):
    stand_in = type("StandIn", (Hub,), {"calls": [], "revisions": {}, "fails_at": ""})
    monkeypatch.setattr(hub, "HfApi", stand_in)
    return stand_in


@pytest.fixture(scope="module")
def run(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("run")
    return make_run(folder, data_of(folder, golden))


@pytest.fixture
def export(run, tmp_path):
    def call(*more, checkpoint=run):
        line = ["--checkpoint", checkpoint, "--output_dir", tmp_path / "model", "--overwrite"]
        return exit_code(main, *line, *more)

    return call


def test_nothing_is_pushed_without_being_asked_for(api, export):
    assert export() == 0
    assert api.calls == []


def test_main_and_a_branch_for_each_step(api, export, run, tmp_path, capsys):
    for step in (2, 4):
        checkpoint = run / f"checkpoints/step_{step}"
        assert export("--push_to_hub", "me/bert", checkpoint=checkpoint) == 0
    assert api.revisions.keys() == {"main", "step_2", "step_4"}
    assert api.revisions["main"] == api.revisions["step_4"]
    weights = [api.revisions[f"step_{step}"]["model.safetensors"] for step in (2, 4)]
    assert weights[0] != weights[1]
    assert weights[1] == (tmp_path / "model/model.safetensors").read_bytes()
    assert "pushed: me/bert, main and step_4" in capsys.readouterr().out
    card = api.revisions["main"]["README.md"].decode()
    assert 'pipeline("fill-mask", model="me/bert")' in card


@pytest.mark.parametrize("more", [[], ["--public"]])
def test_a_new_repository_is_private_unless_asked_otherwise(api, export, more):
    assert export("--push_to_hub", "me/bert", *more) == 0
    assert ("create_repo", "me/bert", not more) in api.calls


def test_without_access_nothing_is_done(api, export, tmp_path, capsys):
    api.fails_at = "whoami"
    assert export("--push_to_hub", "me/bert") == 2
    assert "found no access (403 Forbidden" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_failed_upload_leaves_the_export(api, export, tmp_path, capsys):
    api.fails_at = "upload_folder"
    assert export("--push_to_hub", "me/bert") == 2
    error = capsys.readouterr().err
    assert "no write access" in error and "hf upload me/bert" in error
    assert (tmp_path / "model/model.safetensors").is_file()


def test_a_repository_has_an_owner(api, export, capsys):
    assert export("--push_to_hub", "bert") == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err
    assert api.calls == []


def test_offline_is_said(export, capsys):
    """With the real library, which HF_HUB_OFFLINE keeps from the network (conftest.py)."""
    assert export("--push_to_hub", "me/bert") == 2
    assert "found no access" in capsys.readouterr().err
