"""A task for ds-bert score out of any text with capitals: which lower-cased words had one?

python benchmarks/capitals_task.py text.txt --leave_out trained_on.txt --output_dir data/capitals

It needs no annotation, yet more than a list of names ("will", "rose"). Documents of the test
examples are others than those of the training examples, and none is in --leave_out. The first word
of a sentence and words of one letter are O.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

SHORTEST, LONGEST = 6, 40  # words of a sentence
TELLING = 60  # characters of a line that only its own document has ("Yes, sir." is in many)


def documents(path: Path) -> list[list[str]]:
    """Lists of the lines of each document."""
    parts = path.read_text(encoding="utf-8").split("\n\n")
    return [[line for line in part.splitlines() if line.strip()] for part in parts]


def examples(sentences: list[str]) -> Iterator[dict[str, list[str]]]:
    for sentence in sentences:
        words = sentence.split()
        is_name = [len(w) > 1 and w[0].isupper() and n > 0 for n, w in enumerate(words)]
        if SHORTEST <= len(words) <= LONGEST and not sentence.isupper():
            tags = ["CAPITAL" if one else "O" for one in is_name]
            yield {"text": [word.lower() for word in words], "label": tags}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    for name, number in (("train", options.num_train), ("test", options.num_test)):
        rows: list[str] = []
        while len(rows) < number and found:
            some = list(examples(found.pop()))
            rows += map(json.dumps, random.sample(some, min(len(some), 20)))
        (options.output_dir / f"{name}.jsonl").write_text("\n".join(rows[:number]) + "\n")
        print(f"{name}: {len(rows[:number]):,} sentences")


if __name__ == "__main__":
    main()
