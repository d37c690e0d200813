"""docs/coming-from.md is what the tables say."""

from ds_bert.dialects.flags import ANSWERED, OBEYED, REFUSED
from ds_bert.dialects.page import counts, page
from ds_bert.dialects.systems import SCRIPTS


def test_the_page_is_what_the_code_gives(root):
    found = (root / "docs" / "coming-from.md").read_text(encoding="utf-8")
    assert found == page(), "python -m ds_bert.dialects.page > docs/coming-from.md"


def test_no_flag_is_left_out_of_the_counts():
    for script in SCRIPTS:
        found = counts(script.flags)
        assert set(found) <= {OBEYED, ANSWERED, REFUSED}
        assert found.total() == len({flag.name for flag in script.flags.values()})


def test_readme_and_page_are_linked(root):
    assert "docs/coming-from.md" in (root / "README.md").read_text(encoding="utf-8")
