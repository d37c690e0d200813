"""Whether two trees of ds_bert do the same: data sets, trained weights and help texts.

    git worktree add ../before 5aa2f69
    python benchmarks/same_results.py ../before .

Runs the commands of each tree as a user would and compares

* data    sha256 of every file of data sets, fast and exact mode, of the golden inputs and the demo
          corpus, and of what inspect_data.py shows of them
* weights sha256 of every tensor after 20 steps with dropout: fp32 and bf16, 1 and 2 ranks, LAMB and
          AdamW; the losses of the log; what evaluate.py prints
* help    the text of every --help

and prints what differs, and how much there is that the first tree does not have. Exit code: 0 if
all is the same, else 1. About 5 minutes on two cores. `--only data` leaves the rest out.
"""

import argparse
import difflib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

COMMANDS = ("create_vocab", "preprocess", "inspect_data", "export_hf", "make_demo_corpus")
INPUTS = ("en_a", "en_b", "cjk", "de", "pt", "hostile")
MODEL = {
    "model_type": "bert",
    "vocab_size": 1500,
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
RATES = {"Lamb": 0.02, "AdamW": 1e-3}
TIMES = {
    *("sequences_per_second", "tokens_per_second", "seconds_per_step", "data_wait_share"),
    *("flops_per_second", "mfu", "memory_bytes", "memory_allocated_bytes"),
    *("time", "started", "interval_seconds", "validation_seconds", "save_seconds"),
}


class Tree:
    """One tree, whose commands run in a folder of their own."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root.resolve(), folder
        packages = folder / "packages"
        packages.mkdir(parents=True)
        # Found before whatever is installed.
        (packages / "ds_bert").symlink_to(self.root / "ds_bert")
        (packages / "ds_bert_kernels").symlink_to(self.root / "kernels")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(packages),
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
        }

    def run(self, script: str, *arguments: Any, ranks: int = 1) -> str:
        """Standard output of a command of the tree; a failed one ends everything."""
        python = [sys.executable]
        if ranks > 1:
            launcher = Path(sys.executable).parent / "deepspeed"
            python = [str(launcher), "--num_accelerators", str(ranks)]
        command = [*python, str(self.root / script), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-4000:]}")
        return done.stdout


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def data(tree: Tree) -> Iterator[tuple[str, str]]:
    """Every file of the data sets, by name."""
    golden = Path(__file__).resolve().parent.parent / "tests/golden"
    tree.run("scripts/make_demo_corpus.py", "--output_file", "demo.txt", "--max_megabytes", 2)
    tree.run("scripts/create_vocab.py", "--input_file", "demo.txt", "--vocab_size", 4096,
             "--vocab_file", "demo_vocab.txt")  # fmt: skip
    yield "demo.txt", sha256((tree.folder / "demo.txt").read_bytes())
    for mode in ("fast", "exact"):
        for words in ("", "--do_whole_word_mask"):
            name = f"{mode}{'_words' if words else ''}"
            common = ["--mode", mode, "--validation_fraction", 0.1, *([words] if words else [])]
            for place, vocabulary, inputs in (
                ("golden", golden / "vocab/uncased_vocab.txt",
                 [golden / f"inputs/{text}.txt" for text in INPUTS]),
                ("demo", "demo_vocab.txt", ["demo.txt"]),
            ):  # fmt: skip
                folder = tree.folder / "data" / f"{place}_{name}"
                tree.run("scripts/preprocess.py", "--input_file", *inputs, "--vocab_file",
                         vocabulary, "--output_dir", folder / "train", "--validation_dir",
                         folder / "held_out", *common)  # fmt: skip
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        yield str(path.relative_to(tree.folder)), sha256(path.read_bytes())
                shown = tree.run("scripts/inspect_data.py", folder / "train", "--limit", 50)
                yield f"inspect_data {place}_{name}", sha256(shown.encode())


def weights(tree: Tree) -> Iterator[tuple[str, str]]:
    """Tensors, logged losses and evaluation of each training run."""
    golden = Path(__file__).resolve().parent.parent / "tests/golden"
    tree.run("scripts/preprocess.py", "--input_file", golden / "inputs/en_a.txt", "--vocab_file",
             golden / "vocab/uncased_vocab.txt", "--output_dir", "train", "--max_seq_length", 64,
             "--validation_fraction", 0.2, "--validation_dir", "held_out")  # fmt: skip
    (tree.folder / "model.json").write_text(json.dumps(MODEL))
    for optimizer in RATES:
        for precision in ("fp32", "bf16"):
            for ranks in (1, 2):
                name = f"{optimizer} {precision}, {ranks} ranks"
                run = _train(tree, optimizer, precision, ranks)
                with safe_open(run / "checkpoints/step_20/hf/model.safetensors", "numpy") as file:
                    for tensor in file.keys():  # noqa: SIM118 - not a dict
                        yield f"{name}: {tensor}", sha256(file.get_tensor(tensor).tobytes())
                rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
                for row in rows:
                    for key in sorted(row.keys() - TIMES):
                        yield f"{name}: {row['kind']} {row['step']} {key}", json.dumps(row[key])
    shown = json.loads(tree.run("ds_bert/evaluate.py", "--checkpoint", run, "--data", "held_out"))
    for key in sorted(shown.keys() - {"checkpoint"}):
        yield f"evaluate: {key}", json.dumps(shown[key])


def _train(tree: Tree, optimizer: str, precision: str, ranks: int) -> Path:
    name = f"{optimizer}_{precision}_{ranks}"
    recipe = {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": optimizer, "params": {"lr": RATES[optimizer]}},
        **({"bf16": {"enabled": True}} if precision == "bf16" else {}),
        "ds_bert": {
            "model": "model.json",
            "train_data": "train",
            "validation_data": "held_out",
            "output_dir": f"runs/{name}",
            "max_seq_length": 64,
            "max_steps": 20,
            "warmup_steps": 5,
            "log_interval": 5,
        },
    }
    (tree.folder / f"{name}.json").write_text(json.dumps(recipe))
    tree.run("ds_bert/train.py", "--ds_config", f"{name}.json", ranks=ranks)
    return tree.folder / "runs" / name


def help_texts(tree: Tree) -> Iterator[tuple[str, str]]:
    """What each command answers to --help."""
    for script in (*(f"scripts/{name}.py" for name in COMMANDS), "ds_bert/train.py",
                   "ds_bert/evaluate.py"):  # fmt: skip
        yield f"{script} --help", tree.run(script, "--help")


def changed_lines(before: str, after: str) -> Iterator[str]:
    """The lines of a text that are not in the other one."""
    for line in difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="", n=0):
        if not line.startswith(("---", "+++", "@@")):
            yield f"\n    {line}"


PARTS = {"data": data, "weights": weights, "help": help_texts}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--only", choices=PARTS, action="append", help="part to compare")
    options = parser.parse_args()
    num_different = 0
    with tempfile.TemporaryDirectory() as folder:
        trees = [Tree(root, Path(folder, str(n))) for n, root in enumerate(options.trees)]
        for part in options.only or PARTS:
            before, after = (dict(PARTS[part](tree)) for tree in trees)
            different = [name for name in before if before[name] != after.get(name)]
            print(
                f"{part}: {len(before) - len(different)} of {len(before)} the same, "
                f"{len(after.keys() - before.keys())} new",
                flush=True,
            )
            for name in different:
                print(f"  differs: {name}", *changed_lines(before[name], after.get(name, "")))
            num_different += len(different)
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())
