"""Names and weights of corpora on the command line."""

import pytest

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.text.corpora import Group, parse_groups
from ds_bert.text.inputs import find_corpora

CASES = {
    ("a.txt", "b.txt,c.txt"): [Group("", ["a.txt", "b.txt", "c.txt"])],
    (" a.txt, ,b=.txt ",): [Group("", ["a.txt", "b=.txt"])],  # see below: b=.txt exists
    ("en=a.txt", "de=b.txt"): [Group("en", ["a.txt"]), Group("de", ["b.txt"])],
    ("en=a*.txt:2,de=b.txt",): [Group("en", ["a*.txt"], 2.0), Group("de", ["b.txt"])],
    ("en=a.txt,c.txt:0.5", "de=b:1"): [Group("en", ["a.txt", "c.txt"], 0.5), Group("de", ["b"], 1)],
    ("x=hf:o/n:2020", "y=hf:o/n:2020:train:3"): [
        Group("x", ["hf:o/n:2020"]),
        Group("y", ["hf:o/n:2020:train"], 3.0),
    ],
    ("x=hf:o/n::train:3",): [Group("x", ["hf:o/n::train"], 3.0)],
    ("x=https://host:8080/a.txt:2",): [Group("x", ["https://host:8080/a.txt"], 2.0)],
    ("https://host/a?b=c",): [Group("", ["https://host/a?b=c"])],
    ("language=en/*.txt",): [Group("", ["language=en/*.txt"])],  # as folders of tables are called
}


@pytest.mark.parametrize("arguments", CASES)
def test_groups(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b=.txt").touch()
    (tmp_path / "language=en").mkdir()
    (tmp_path / "language=en/x.txt").touch()
    assert parse_groups(arguments) == CASES[arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt", "en=b.txt"], "a.txt has no name, en=... has one"),
        (["en=b.txt", "a.txt"], "a.txt has no name, en=... has one"),
        (["en=b.txt", "en=a.txt"], "names corpus en twice.*en=A,B"),
    ],
)
def test_groups_that_contradict(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_groups(arguments)


def test_no_input_is_in_two_corpora(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the\n")
    found = find_corpora([f"x={tmp_path}/a.txt,{tmp_path}/*.txt:3"])
    assert [(c.name, c.weight, [i.path.name for i in c.inputs]) for c in found] == [
        ("x", 3.0, ["a.txt", "b.txt"])
    ]
    with pytest.raises(DataError, match=r"a\.txt is in corpus x and in y"):
        find_corpora([f"x={tmp_path}/a.txt", f"y={tmp_path}"])
