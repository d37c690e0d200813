"""The documentation names what there is: settings, files, links."""

import dataclasses
import json
import re

import pytest
from conftest import ROOT

from ds_bert.commands.main import COMMANDS
from ds_bert.config import TrainingConfig
from ds_bert.preprocessing.options import PreprocessOptions

NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [ROOT / name for name in NAMES]
PAGES += sorted(path for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
ABSOLUTE_PATH = re.compile(r"(?:^|[\s`'\"(=])(/[A-Za-z][\w.-]*)")
TREE_LINE = re.compile(r"( *)(\S+(?:, \S+)*)  +\S")


def text_of(page):
    return page.read_text(encoding="utf-8")


def flags(options):
    """The fields of a dataclass that are flags."""
    return [field for field in dataclasses.fields(options) if "help" in field.metadata]


def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("field", dataclasses.fields(TrainingConfig), ids=lambda field: field.name)
def test_every_setting_is_described_with_its_default(field):
    default = json.dumps(field.default)
    row = f"| `{field.name}` | `{default}` | "
    assert row in text_of(ROOT / "docs/training.md")


@pytest.mark.parametrize("field", flags(PreprocessOptions), ids=lambda field: field.name)
def test_every_option_of_preprocessing_is_described_with_its_default(field):
    default = "all cores" if field.name == "num_workers" else f"`{json.dumps(field.default)}`"
    assert f"| `{field.name}` | {default} | " in text_of(ROOT / "docs/data.md")


def test_the_index_names_every_page():
    named = {name.partition("#")[0] for name in LINK.findall(text_of(ROOT / "docs/README.md"))}
    pages = {page.name for page in PAGES if page.parent.name == "docs"}
    assert pages - named == {"README.md"}


def test_every_command_has_its_line():
    rows = text_of(ROOT / "docs/commands.md")
    assert [name for name in COMMANDS if f"| `ds-bert {name}" not in rows] == []


def test_the_tree_names_files_that_exist():
    page = text_of(ROOT / "docs/architecture.md")
    block = next(b for b in page.split("```\n") if b.startswith("ds_bert/"))
    folder, found = "", []
    for line in block.splitlines():
        match = TREE_LINE.match(line)
        assert match, f"not a line of the tree: {line!r}"
        indent, names = match[1], match[2].split(", ")
        if not indent:
            folder = names[0]
        found += [folder + name if indent else name for name in names]
    rooms = {f"ds_bert/{path.parent.name}/" for path in (ROOT / "ds_bert").glob("*/__init__.py")}
    assert rooms <= set(found)
    assert [name for name in found if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        goal = page.parent / name if name else page
        assert goal.exists(), target
        assert not anchor or anchor in headings(goal), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_path_of_one_machine(page):
    assert ABSOLUTE_PATH.findall(text_of(page)) == []
