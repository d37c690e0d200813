"""What people expect of a repository beside its code: it parses, and calls what there is."""

import datetime
import re

import yaml
from conftest import ROOT

from ds_bert import __version__


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_workflow_runs_what_every_change_has_to_pass():
    workflow = load(".github/workflows/test.yml")
    assert set(workflow[True]) == {"push", "pull_request"}, "YAML 1.1 reads the key `on` as true"
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["bash scripts/test.sh"]
    assert (ROOT / "scripts/test.sh").is_file()
    versions = [step["with"]["python-version"] for step in steps if "with" in step]
    assert versions == ["3.11"], "that of constraints.txt"


def test_pre_commit_uses_the_tested_ruff():
    pinned = re.search(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(), re.M)[0]
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local", "hooks of other repositories follow their versions"
    checks = (ROOT / "scripts/test.sh").read_text()
    for hook in repository["hooks"]:
        assert hook["language"] == "python"
        assert hook["additional_dependencies"] == [pinned]
        assert hook["entry"].removesuffix(" --force-exclude") in checks


def test_the_citation_names_this_version():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert str(citation["version"]) == __version__
    assert isinstance(citation["date-released"], datetime.date)
    heading = f"## [{__version__}] - {citation['date-released']}"
    assert heading in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
