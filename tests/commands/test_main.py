"""The console command ds-bert: what it says, what it calls, and how fast."""

import ast
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from data_util import arguments, exit_code

from ds_bert import recipes
from ds_bert.commands import main as ds_bert_command
from ds_bert.commands.main import COMMANDS, main
from ds_bert.commands.parser import new_parser
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS

MODULES = {path.stem for path in Path(ds_bert_command.__file__).parent.glob("*.py")}


def test_every_command_is_in_the_table():
    assert set(COMMANDS.values()) == MODULES - {"__init__", "main", "parser"}


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"]])
def test_alone_it_says_what_there_is(capsys, line):
    assert exit_code(main, *line) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^([a-z-]+)  +[A-Z].*\n +ds-bert \1\b", shown, re.M) == list(COMMANDS)
    assert all(name in shown for name in recipes.names())
    assert "scripts/" not in shown and ".py" not in shown, "a wheel has no scripts"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("preproces", 'did you mean "preprocess"?'), ("xyz", "known: advise, average-")],
)
def test_an_unknown_command(capsys, name, hint):
    assert exit_code(main, name) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command_as_it_was_called(capsys, name):
    assert exit_code(main, name, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ds-bert {name} ")
    assert "python " not in shown


def test_errors_of_a_command_are_those_of_its_script(capsys, tmp_path):
    assert exit_code(main, "inspect", tmp_path) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and "ds-bert preprocess makes one" in shown
    assert exit_code(main, "inspect") == 2
    assert "usage: ds-bert inspect" in capsys.readouterr().err


def test_a_command_does_its_work(capsys, tmp_path):
    corpus = tmp_path / "new/corpus.txt"
    command = ["demo-corpus", "--output_file", corpus, "--max_megabytes", 0.05]
    assert exit_code(main, *command) == 0
    assert exit_code(main, *command) == 0, "the same text again"
    assert 0 < corpus.stat().st_size <= 50_000
    corpus.write_text("mine")
    assert exit_code(main, *command) == 2
    assert corpus.read_text() == "mine"
    assert "is another text" in capsys.readouterr().err


def test_saying_what_there_is_loads_no_command():
    code = """
import sys
from ds_bert.commands.main import main
main([])
slow = {"numpy", "numba", "torch", "transformers", "deepspeed", "ds_bert.commands.preprocess"}
assert not slow & set(sys.modules), slow & set(sys.modules)
main(["preprocess", "--dry_run", "--help"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["preprocess", "inspect"])
def test_help_loads_no_numba(command):
    code = f"""
import sys
from ds_bert.commands.main import main
try:
    main(["{command}", "--help"])
except SystemExit:
    assert "numba" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("flags", [[], ["--format", "jsonl"], ["--report"], ["--verify"]])
def test_output_that_takes_only_ascii(flags, tmp_path, monkeypatch):
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("\n".join([*SPECIAL_TOKENS, *"äé你好🙂"]), encoding="utf-8")
    text = tmp_path / "text.txt"
    text.write_text("ä é 你 好 🙂\n" * 4 + "\nä 🙂 🙂\n" * 30, encoding="utf-8")
    for line in (
        ["preprocess", *arguments(tmp_path, text, vocab_file, "--no_do_lower_case")],
        ["inspect", tmp_path / "train", *flags],
    ):
        output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", output)
        assert exit_code(main, *line) == 0
        shown = output.buffer.getvalue().decode("ascii")
    if "jsonl" in flags:
        assert any("🙂" in json.loads(line)["tokens"] for line in shown.splitlines())


def test_no_message_sends_to_the_scripts_folder():
    """A wheel has none. Docstrings may, and the help texts of the scripts themselves do."""
    house = Path(ds_bert_command.__file__).parent.parent
    for path in set(house.rglob("*.py")) - set(house.glob("commands/*")) - {house / "config.py"}:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = list(ast.walk(tree))
        docs = {id(n.body[0].value) for n in nodes if isinstance(n, kinds) and ast.get_docstring(n)}
        texts = [n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in docs]
        assert not [text for text in texts if isinstance(text, str) and "scripts/" in text], path


def test_examples_name_the_command_as_it_was_called():
    doc = "Look at what scripts/preprocess.py made.\n\npython scripts/inspect_data.py x\n"
    assert "\npython scripts/inspect_data.py x" in new_parser(doc, None).format_help()
    shown = new_parser(doc, "ds-bert inspect").format_help()
    assert "Look at what ds-bert preprocess made.\n\nds-bert inspect x\n" in shown
