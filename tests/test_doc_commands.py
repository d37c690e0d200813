"""Every command in the documentation: executed, or read by its own parser; else here is why not."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from data_util import synthetic_text
from doc_commands import commands_of, flags_of, launched, own, parse, recognise

from ds_bert.commands.main import COMMANDS, main
from ds_bert.errors import UserError

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = [command for page in PAGES for command in commands_of(page)]
# Programs that are not ours, and why they are not called here. Files that they name must exist.
OTHERS = {
    r"bash scripts/(install|quickstart)\.sh": "installs packages, and takes minutes",
    r"bash scripts/test\.sh": "runs this test",
    r"\. \S+/bin/activate": "of the shell",
    r"^(pip|head|git|python -m venv) ": "of other projects",
    r"^python (run_glue|run_qa|score_vectors)\.py": "of other projects, or the reader's own",
    r"python (benchmarks/|scripts/torture\.py)": "measures or breaks things, for minutes or hours",
}
# What these pages say is executed, one after the other, with a tiny model; but for:
EXECUTED = ("README.md", "docs/your-own-text.md", "docs/continuing.md", "docs/faq.md")
NOT_EXECUTED = {
    r"--hostfile": "needs several hosts",
    r"ds-bert pretrain": "all commands in processes of their own, for hours: tests/pipeline",
    r"google-bert/|continue/": "needs the hub",
    r"uncased_L-12_H-768_A-12": "needs a model of others",
    r"--overfit|--probe_steps|micro_batch_size auto": "measures for seconds: tests/rehearsal",
    r"--rollback": "needs a run that has diverged: tests/divergence",
}
SMALLER = {
    "train": [
        *("--model", "bert-tiny", "--train_micro_batch_size", "2", "--scale_train_batch_size", "4"),
        *("--max_steps", "2", "--warmup_steps", "0", "--save_interval", "1", "--eval_interval"),
        *("0", "--report_to", "none", "--report_seconds", "0"),
    ],
    "preprocess": ["--validation_fraction", "0.2", "--dupe_factor", "1"],
}


def reason(command, reasons):
    return next((why for start, why in reasons.items() if re.search(start, command.text)), None)


def test_there_are_commands():
    assert len(ALL) > 120
    assert {command.page for command in ALL} >= {*EXECUTED, "docs/commands.md", "docs/training.md"}
    executed = [c for c in ALL if c.page in EXECUTED and not reason(c, NOT_EXECUTED | OTHERS)]
    assert len({c.words for c in executed}) > 20


@pytest.mark.parametrize("page", sorted({command.page for command in ALL}))
def test_commands_are_read_by_their_parsers(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ALL:
        if command.page != page:
            continue
        if own(command) is None:
            assert reason(command, OTHERS), command
            files = [word for word in command.words if re.match(r"(scripts|benchmarks)/", word)]
            assert all((ROOT / name).exists() for name in files), command
        try:
            if page == "docs/coming-from.md":
                assert recognise(command), command
            elif own(command) is not None:
                parse(command)
        except SystemExit:
            pytest.fail(f"{command.text}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_sentences_and_their_flags_exist(page):
    for name, rest in re.findall(r"`ds-bert ([a-z][a-z-]*)( [^`]*)?`", page.read_text("utf-8")):
        assert name in COMMANDS, name
        if name not in ("launch", "preflight"):  # which pass flags on
            unknown = set(re.findall(r"(?<=\s)--\w+", rest)) - flags_of(name)
            assert not unknown, (name, unknown)


def test_a_wrong_flag_is_found(tmp_path):
    page = ROOT / "docs/data.md"
    command = next(c for c in commands_of(page) if c.words[1] == "preprocess")
    with pytest.raises((SystemExit, UserError)):
        parse(command._replace(words=(*command.words, "--no_such_flag")))


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda s: s.name)
def test_shell_scripts_are_shell(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_the_pages_for_newcomers_work_as_they_are(tmp_path, monkeypatch, capsys, one_process_group):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.txt").write_text(synthetic_text(60))
    done = set()
    for command in (c for page in EXECUTED for c in ALL if c.page == page):
        if command.words in done or reason(command, NOT_EXECUTED | OTHERS):
            continue
        name, words = own(command)
        assert name in COMMANDS
        if name == "launch":  # in this process
            name, (_, words, _) = "train", launched(words)
        words = [re.sub(r"step_(\d)000$", r"step_\1", word) for word in words]
        shutil.rmtree("models", ignore_errors=True)  # which several pages name as new
        code = main([name, *words, *SMALLER.get(name, ())])
        assert not code, f"{command.page}: {command.text}"
        done.add(command.words)
    use = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    exec(use.replace("runs/pretrain/model", "models/my-bert"), {})
    assert "'score'" in capsys.readouterr().out
