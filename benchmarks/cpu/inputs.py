"""Speed of reading each kind of input, and of splitting sentences, in MB of text per CPU-second.

python benchmarks/cpu/inputs.py TEXT
"""

import argparse
import bz2
import gzip
import json
import lzma
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import datasets
import pyarrow
import zstandard
from machine import save
from pyarrow import csv, parquet

from ds_bert.text.inputs import find_inputs

SENTENCES = 6  # of a paragraph


def in_paragraphs(document: str) -> str:
    lines = document.split("\n")
    groups = (lines[start : start + SENTENCES] for start in range(0, len(lines), SENTENCES))
    return "\n".join(" ".join(group) for group in groups)


def make_inputs(text: bytes, folder: Path) -> None:
    documents = [part for part in text.decode().split("\n\n") if part.strip()]
    rows = "".join(json.dumps({"text": part}, ensure_ascii=False) + "\n" for part in documents)
    paragraphs = map(in_paragraphs, documents)
    files = {
        "text.txt": text,
        "text.txt.gz": gzip.compress(text, 6),
        "text.txt.zst": zstandard.compress(text),
        "text.txt.bz2": bz2.compress(text),
        "text.txt.xz": lzma.compress(text),
        "rows.jsonl": rows.encode(),
        "paragraphs.txt": "\n\n".join(paragraphs).encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    table = pyarrow.table({"text": documents})
    csv.write_csv(table, folder / "rows.csv")
    parquet.write_table(table, folder / "rows.parquet")
    datasets.Dataset.from_dict({"text": documents}).save_to_disk(folder / "dataset")


def megabytes_per_second(name: Path, language: str | None) -> float:
    (source,) = find_inputs([str(name)], sentence_splitter=language)
    with source.open() as stream:
        num_bytes = len(stream.read(1))  # imports
        start = time.process_time()
        while piece := stream.read(2**20):
            num_bytes += len(piece)
    return num_bytes / 1e6 / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(parser.parse_args().text.read_bytes(), folder)
        cases = [(path, None) for path in sorted(folder.iterdir())]
        cases += [(folder / name, "en") for name in ("paragraphs.txt", "text.txt")]
        for path, language in cases:
            best = max(megabytes_per_second(path, language) for _ in range(3))
            rows.append({"input": path.name, "sentence_splitter": language, "mb_per_second": best})
            print(f"{path.name:16} {language or '':3} {best:8.1f} MB/s", flush=True)
    save("inputs", rows)


if __name__ == "__main__":
    main()
