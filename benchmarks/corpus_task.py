"""A task for ds-bert score out of any text, without annotation.

    python benchmarks/corpus_task.py capitals text.txt --leave_out trained_on.txt \\
        --output_dir data/capitals
    python benchmarks/corpus_task.py neighbours text.txt ...

`capitals` (tagging): which lower-cased words had one? More than a list of names ("will", "rose").
The first word of a sentence and words of one letter are O. `neighbours` (pairs): do three sentences
follow three others, or are they of another document? That is near to what next-sentence prediction
asks. Documents of the test examples are others than those of the training examples, and none is in
--leave_out.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

SHORTEST, LONGEST = 6, 40  # words of a sentence
SENTENCES = 3  # of a neighbour
MOST = 40  # examples of a document
TELLING = 60  # characters of a line that only its own document has ("Yes, sir." is in many)

Documents = list[list[str]]


def documents(path: Path) -> Documents:
    """Lists of the lines of each document."""
    parts = path.read_text(encoding="utf-8").split("\n\n")
    return [[line for line in part.splitlines() if line.strip()] for part in parts]


def capitals(document: list[str], others: Documents, random: Random) -> Iterator[dict[str, Any]]:
    del others, random
    for sentence in document:
        words = sentence.split()
        is_name = [len(w) > 1 and w[0].isupper() and n > 0 for n, w in enumerate(words)]
        if SHORTEST <= len(words) <= LONGEST and not sentence.isupper():
            tags = ["CAPITAL" if one else "O" for one in is_name]
            yield {"text": [word.lower() for word in words], "label": tags}


def neighbours(document: list[str], others: Documents, random: Random) -> Iterator[dict[str, Any]]:
    others = [one for one in others if one is not document and len(one) >= SENTENCES]
    for start in range(0, len(document) - 2 * SENTENCES + 1, SENTENCES):
        middle, label = start + SENTENCES, random.choice(("next", "other"))
        other = random.choice(others)
        place = random.randrange(len(other) - SENTENCES + 1)
        second = document[middle:] if label == "next" else other[place:]
        text, pair = (" ".join(part[:SENTENCES]) for part in (document[start:], second))
        yield {"text": text, "text_pair": pair, "label": label}


TASKS: dict[str, Callable[[list[str], Documents, Random], Iterator[dict[str, Any]]]] = {
    "capitals": capitals,
    "neighbours": neighbours,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("input_file", type=Path)
    parser.add_argument("--leave_out", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_train", type=int, default=2000)
    parser.add_argument("--num_test", type=int, default=1000)
    options = parser.parse_args()
    known: set[str] = set()
    if options.leave_out:
        known = {line for part in documents(options.leave_out) for line in part}
        known = {line for line in known if len(line) > TELLING}
    found = [part for part in documents(options.input_file) if part and not known & {*part}]
    random = Random(0)
    random.shuffle(found)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    share = options.num_train / (options.num_train + options.num_test)
    cut = round(share * len(found))
    for name, its, number in (
        ("train", found[:cut], options.num_train),
        ("test", found[cut:], options.num_test),
    ):
        rows: list[str] = []
        for part in its:
            some = list(TASKS[options.task](part, its, random))
            rows += map(json.dumps, random.sample(some, min(len(some), MOST)))
        random.shuffle(rows)
        (options.output_dir / f"{name}.jsonl").write_text("\n".join(rows[:number]) + "\n")
        print(f"{name}: {len(rows[:number]):,} examples")


if __name__ == "__main__":
    main()
