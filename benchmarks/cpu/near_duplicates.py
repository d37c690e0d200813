"""Speed of finding near-duplicates, beside tokenization and, if installed, datasketch.

python benchmarks/cpu/near_duplicates.py TEXT VOCABULARY

MB of text per CPU-second, one thread; documents of the text, and cut into documents of 20 lines.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share

import numpy as np
from machine import save

from ds_bert.dataset.documents import encoded_run
from ds_bert.dataset.format import Documents
from ds_bert.preprocessing.near_duplicates import NGRAM, near_duplicates
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

LINES = 20  # of a short document
LIBRARY_BYTES = 2_000_000  # of text; more would take minutes


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_short_documents(text: bytes) -> bytes:
    lines = [line for line in text.split(b"\n") if line.strip()]
    groups = (lines[start : start + LINES] for start in range(0, len(lines), LINES))
    return b"\n\n".join(b"\n".join(group) for group in groups) + b"\n"


def documents_of(tokenizer: WordPieceTokenizer, text: bytes) -> Documents:
    run = encoded_run(tokenizer.encode(text))
    counts = (run.num_tokens, run.num_sentences)
    ends = (np.cumsum([0, *each]).astype(np.uint64) for each in counts)
    return Documents(run.tokens, run.sentence_ends, *ends)


def with_datasketch(documents: Documents) -> None:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.8, num_perm=128)
    for number in range(len(documents.token_offsets) - 1):
        first, last = (int(offset) for offset in documents.token_offsets[number : number + 2])
        tokens = documents.tokens[first:last].tobytes()
        size = documents.tokens.itemsize
        ngrams = {tokens[at : at + NGRAM * size] for at in range(0, len(tokens), size)}
        signature = MinHash(num_perm=128)
        signature.update_batch(ngrams)
        index.query(signature)
        index.insert(number, signature)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("vocabulary")
    options = parser.parse_args()
    tokenizer = WordPieceTokenizer(Vocabulary.read(options.vocabulary), True)
    whole, rows = options.text.read_bytes(), []
    near_duplicates(documents_of(tokenizer, whole[:9999]), 1)  # load what is compiled
    for name, text in (("documents", whole), (f"{LINES} lines", in_short_documents(whole))):
        documents = documents_of(tokenizer, text)
        figures = {
            "documents": name,
            "number": len(documents.token_offsets) - 1,
            "tokenize": len(text) / seconds(lambda text=text: tokenizer.encode(text)) / 1e6,
            "near_duplicates": len(text) / seconds(lambda d=documents: near_duplicates(d, 1)) / 1e6,
            "found": int(near_duplicates(documents, 1).sum()),
        }
        part = text[:LIBRARY_BYTES]
        try:
            spent = seconds(lambda part=part: with_datasketch(documents_of(tokenizer, part)))
            figures["datasketch"] = len(part) / spent / 1e6
        except ImportError:
            print("datasketch is not installed: left out")
        rows.append(figures)
        print(figures)
    save("near_duplicates", rows)


if __name__ == "__main__":
    main()
