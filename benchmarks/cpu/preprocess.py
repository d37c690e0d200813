"""Speed of preprocessing against other tokenizers, in MB of text per CPU-second (user + system).

    python benchmarks/cpu/preprocess.py [TEXT] [--vocab_file VOCAB] [--repeats N]

Whole runs are processes of scripts/preprocess.py, start-up counted; "net" takes off what the same
command needs for 300 KB. The compile cache is warm. Memory is the peak of anonymous memory. Each
figure is the median of the repeats.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

from machine import ROOT, save

sys.path.insert(0, str(ROOT / "tests"))
from reference_tokenizer import tokenize
from tokenizers import BertWordPieceTokenizer

from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

SHARED = ROOT.parent / "shared"
BLOCK = 4 << 20
SMALL = 300_000
RUNS = {
    "fast, dupe 1, 1 worker": ["--dupe_factor", "1", "--num_workers", "1"],
    "fast, dupe 1, 2 workers": ["--dupe_factor", "1", "--num_workers", "2"],
    "fast, dupe 5, 1 worker": ["--dupe_factor", "5", "--num_workers", "1"],
    "fast, dupe 5, 2 workers": ["--dupe_factor", "5", "--num_workers", "2"],
    "exact, dupe 1, 2 workers": ["--mode", "exact", "--dupe_factor", "1", "--num_workers", "2"],
    "exact, dupe 5, 2 workers": ["--mode", "exact", "--dupe_factor", "5", "--num_workers", "2"],
}


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def rate(function, pieces: list, num_bytes: int) -> float:
    """MB per CPU-second of calling `function` on each piece."""
    start = cpu_seconds()
    for piece in pieces:
        function(piece)
    return num_bytes / 1e6 / (cpu_seconds() - start)


def tokenizer_rows(text: bytes, vocab_file: str, repeats: int) -> list[dict]:
    vocabulary = Vocabulary.read(vocab_file)
    ours = WordPieceTokenizer(vocabulary, do_lower_case=True)
    ours.encode(text[:BLOCK])
    blocks = [text[start : start + BLOCK] for start in range(0, len(text), BLOCK)]
    part = text[: 4 << 20].decode(errors="ignore").splitlines()
    fast = BertWordPieceTokenizer(vocab_file, lowercase=True)
    few = part[: len(part) // 10]
    cases = {
        "ds_bert": lambda: rate(ours.encode, blocks, len(text)),
        "tokenizers encode_batch_fast": lambda: rate(
            lambda lines: fast._tokenizer.encode_batch_fast(lines, add_special_tokens=False),
            [part],
            sum(len(line.encode()) + 1 for line in part),
        ),
        "Google's algorithm in Python": lambda: rate(
            lambda line: tokenize(line, vocabulary.ids, True),
            few,
            sum(len(line.encode()) + 1 for line in few),
        ),
    }
    rows = []
    for name, measure in cases.items():
        rows.append(
            {"what": f"tokenization: {name}", "net": median(measure() for _ in range(repeats))}
        )
        print(f"{rows[-1]['what']:50} {rows[-1]['net']:8.2f} MB per CPU-second", flush=True)
    return rows


def run(text_file: Path, vocab_file: str, flags: list[str]) -> dict:
    """CPU and wall seconds and peak anonymous memory of one process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "scripts/preprocess.py")]
        command += ["--input_file", str(text_file), "--vocab_file", vocab_file]
        command += ["--output_dir", f"{folder}/train", "--validation_fraction", "0", *flags]
        before, start, peak = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.01)
        assert process.returncode == 0, command
        wall = time.perf_counter() - start
        cpu = cpu_seconds(resource.RUSAGE_CHILDREN) - before
        return {"cpu_s": cpu, "wall_s": wall, "anonymous_mb": peak / 1e3}


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process in kB, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status if line.startswith("RssAnon")), 0)


def run_rows(text_file: Path, vocab_file: str, repeats: int) -> list[dict]:
    rows: list[dict] = []
    num_bytes = text_file.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.txt"
        with text_file.open("rb") as source:
            small.write_bytes(source.read(SMALL).decode(errors="ignore").encode())
        for name, flags in RUNS.items():
            flags = [*flags, "--max_seq_length", "128,512"]
            run(small, vocab_file, flags)  # compiles what is not in the cache
            starts = [run(small, vocab_file, flags) for _ in range(repeats)]
            runs = [run(text_file, vocab_file, flags) for _ in range(repeats)]
            row = {key: median(one[key] for one in runs) for key in runs[0]}
            start_cpu, start_wall = (median(s[k] for s in starts) for k in ("cpu_s", "wall_s"))
            row |= {
                "what": f"whole run: {name}",
                "start_up_cpu_s": start_cpu,
                "gross": num_bytes / 1e6 / row["cpu_s"],
                "net": (num_bytes - SMALL) / 1e6 / (row["cpu_s"] - start_cpu),
                "wall_gross": num_bytes / 1e6 / row["wall_s"],
                "wall_net": (num_bytes - SMALL) / 1e6 / (row["wall_s"] - start_wall),
            }
            rows.append(row)
            print(
                f"{row['what']:36} MB per CPU-second {row['gross']:5.1f} gross {row['net']:5.1f} "
                f"net; MB/s {row['wall_gross']:5.1f} gross {row['wall_net']:5.1f} net; start-up "
                f"{start_cpu:.2f} CPU-seconds; {row['anonymous_mb']:.0f} MB",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", type=Path, default=SHARED / "corpus/eng_eltec.txt")
    parser.add_argument("--vocab_file", default=str(SHARED / "vocab/bert-base-uncased-vocab.txt"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = tokenizer_rows(options.text.read_bytes(), options.vocab_file, options.repeats)
    rows += run_rows(options.text, options.vocab_file, options.repeats)
    save("preprocess", rows)


if __name__ == "__main__":
    main()
