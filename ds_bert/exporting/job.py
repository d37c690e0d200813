"""The way out of a run: a model folder, reloaded and compared before it is put into place."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ds_bert.config import EMA, LAST
from ds_bert.errors import require
from ds_bert.exporting import hub
from ds_bert.exporting.card import write_card
from ds_bert.exporting.checks import Report, check, report
from ds_bert.exporting.embeddings import write_sentence_transformers
from ds_bert.exporting.figures import read_metrics
from ds_bert.exporting.onnx_file import require_onnx
from ds_bert.exporting.same_files import write_special_tokens
from ds_bert.exporting.source import (
    FILES,
    ExportSource,
    find_source,
    require_free,
    with_average,
)
from ds_bert.files import OutputFolder, require_space


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and with what.

    Attributes:
        checkpoint: a run (its newest good checkpoint), a checkpoint, or a model folder of ds_bert.
        output_dir: appears whole or not at all.
        overwrite: replace a model folder that is there.
        data: a data set to check with; None: those that the run names.
        weights: "last", those of the last step, or "ema", their moving average.
        text: a text to compare tokenizers on; None: the sentences of the data.
        sentence_transformers: add its files.
        onnx: add the model as ONNX.
        language: ISO 639 codes, for the card.
        license: for the card.
        metrics: file with the JSON of `ds-bert evaluate`, for the card.
        push_to_hub: repository OWNER/NAME; None: nothing leaves this machine.
        public: whether a new repository can be seen by all.
    """

    checkpoint: str
    output_dir: str
    overwrite: bool = False
    data: str | None = None
    weights: str = LAST
    text: str | None = None
    sentence_transformers: bool = False
    onnx: bool = False
    language: list[str] | None = None
    license: str | None = None
    metrics: str | None = None
    push_to_hub: str | None = None
    public: bool = False


def export(options: ExportOptions) -> Report:
    """Copy a model to a place of its own, complete it, and check that nothing was lost.

    Returns:
        what was found and written, as titles and texts.

    Raises:
        ConfigurationError: `output_dir` is in use, packages are missing, or the hub refuses.
        CheckpointError: nothing there, nothing undamaged, or the copy is not the same model.
        DataError: data, text or metrics cannot be read.
    """
    final, repo = Path(options.output_dir), options.push_to_hub
    if options.onnx:
        require_onnx()
    if repo is not None:
        require(repo.count("/") == 1, "push_to_hub", repo, "OWNER/NAME")
        hub.require_access(repo)
    metrics = None if options.metrics is None else read_metrics(options.metrics)
    with OutputFolder(final) as output:
        require_free(final, options.overwrite)
        source = find_source(options.checkpoint, options.data)
        exported = str(source.folder)
        if options.weights == EMA:
            source = with_average(source, output.hidden / "average")
            exported += ", moving average of the weights"
        _copy(source, output.folder)
        write_special_tokens(output.folder)
        if options.sentence_transformers:
            hidden_size = source.config.hidden_size
            write_sentence_transformers(output.folder, hidden_size, source.limit)
        checked = check(source, output.folder, options.text, options.onnx)
        write_card(
            output.folder,
            source,
            repo or final.name,
            [line for _, line in report(checked, source, examples=False)],  # no text of others
            language=options.language,
            license=options.license,
            metrics=metrics,
        )
        output.publish()
    lines = [("exported", exported), *report(checked, source), ("written", str(final))]
    if repo is not None:
        revisions = hub.push(final, repo, source.step, options.public)
        lines.append(("pushed", f"{repo}, {' and '.join(revisions)}"))
    return lines


def _copy(source: ExportSource, folder: Path) -> None:
    names = [*FILES, "tokenizer.json", "README.md"]
    files = [source.folder / name for name in names if (source.folder / name).is_file()]
    require_space(folder, sum(file.stat().st_size for file in files), "the model")
    for file in files:
        shutil.copyfile(file, folder / file.name)
