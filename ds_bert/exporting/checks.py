"""All that is checked of an exported folder, and what is said of it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ds_bert.exporting.onnx_file import compare_with_onnx, write_onnx
from ds_bert.exporting.same_files import check_files
from ds_bert.exporting.same_model import (
    TOLERANCE,
    Difference,
    Outputs,
    compare_with_stock,
    own_outputs,
    quiet_transformers,
    sample,
)
from ds_bert.exporting.same_tokens import CHARACTERS, Parity, compare_tokenizers, sentences
from ds_bert.exporting.source import ExportSource
from ds_bert.model.batch import Batch
from ds_bert.progress import Progress

Report = list[tuple[str, str]]
_SHOWN_CHARACTERS = 8


@dataclass
class Checked:
    """What was found.

    Attributes:
        batch: the sequences.
        own: what our model computes of them.
        differences: of other programs to it.
        parities: of tokenizers.
        text: what they were compared on, in words.
    """

    batch: Batch
    own: Outputs
    differences: list[Difference]
    parities: list[Parity]
    text: str


def check(
    source: ExportSource, folder: Path, text: str | None = None, onnx: bool = False
) -> Checked:
    """Compare a folder with the model that it was exported from.

    Args:
        source: the model as ds_bert has it.
        folder: the export.
        text: a text to compare tokenizers on; None: the sentences of the data.
        onnx: write the model as ONNX, and compare that as well.

    Raises:
        CheckpointError: what is not the same.
        DataError: the text cannot be read.
    """
    texts = sentences(text, source.store, source.vocabulary)
    casing, positions = source.do_lower_case, source.config.max_position_embeddings
    check_files(folder, source.vocabulary, casing, positions)
    # Heads that a class adds are random.
    with quiet_transformers(), torch.random.fork_rng(), Progress("comparing") as progress:
        batch = sample(source)
        own = own_outputs(source, batch)
        progress.update(0.2)
        found = compare_with_stock(folder, own, batch)
        progress.update(0.5)
        if onnx:
            write_onnx(folder, source)
            found += compare_with_onnx(folder, own, batch)
        progress.update(0.8)
        parities = compare_tokenizers(folder, source.vocabulary, casing, texts)
        progress.update(1.0)
    return Checked(batch, own, found, parities, _text(source, text))


def _text(source: ExportSource, text: str | None) -> str:
    if text is not None:
        return Path(text).name
    return "words of the vocabulary" if source.store is None else source.store.folder.name


def report(checked: Checked, source: ExportSource, examples: bool = True) -> Report:
    """What was found, as titles and texts; `examples` hold a few words of the text."""
    batch, what = checked.batch, "random tokens; its data are not in reach (--data)"
    if source.store is not None:
        what = source.store.folder.name
    largest = max(checked.differences, key=lambda found: found.largest / (found.scale or 1.0))
    programs = ", ".join(dict.fromkeys(found.program for found in checked.differences))
    lines = [
        (
            "model",
            f"{programs} compute what ds_bert computes: largest difference {largest.largest:.1e} "
            f"({largest.output}, of values up to {largest.scale:.3g}; allowed {TOLERANCE:g} of "
            f"that), {batch.num_sequences} sequences, {batch.num_tokens} tokens of {what}",
        )
    ]
    for parity in checked.parities:
        lines += [("tokenizer", line) for line in describe(parity, checked.text, examples)]
    return lines


def describe(parity: Parity, text: str, examples: bool = True) -> list[str]:
    """A tokenizer in words: the total, then each kind of difference, perhaps with an example."""
    differ = sum(parity.kinds.values())
    compared = f"{parity.sentences:,} sentences, {parity.tokens:,} tokens of {text}"
    lines = [f"{parity.program}: {differ:,} sentences differ from ours ({compared})"]
    for kind, number in parity.kinds.most_common():
        reason = kind
        if kind == CHARACTERS:
            common = parity.characters.most_common(_SHOWN_CHARACTERS)
            reason += f" ({', '.join(f'U+{ord(one):04X}' for one, _ in common)})"
        own, theirs = parity.examples[kind][0]
        example = f", for example ours: {own} | theirs: {theirs}" if examples else ""
        lines.append(f"{number:,} of them: {reason}{example}")
    return lines
