"""The way out of a run: a model folder, reloaded and compared before it is put into place."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ds_bert.exporting.checks import Report, check, report
from ds_bert.exporting.same_files import write_special_tokens
from ds_bert.exporting.source import FILES, ExportSource, find_source, require_free
from ds_bert.files import OutputFolder, require_space


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and with what.

    Attributes:
        checkpoint: a run (its newest good checkpoint), a checkpoint, or a model folder of ds_bert.
        output_dir: appears whole or not at all.
        overwrite: replace a model folder that is there.
        data: a data set to check with; None: those that the run names.
        text: a text to compare tokenizers on; None: the sentences of the data.
    """

    checkpoint: str
    output_dir: str
    overwrite: bool = False
    data: str | None = None
    text: str | None = None


def export(options: ExportOptions) -> Report:
    """Copy a model to a place of its own, complete it, and check that nothing was lost.

    Returns:
        what was found and written, as titles and texts.

    Raises:
        ConfigurationError: `output_dir` is in use.
        CheckpointError: nothing there, nothing undamaged, or the copy is not the same model.
        DataError: data or text cannot be read.
    """
    final = Path(options.output_dir)
    with OutputFolder(final) as output:
        require_free(final, options.overwrite)
        source = find_source(options.checkpoint, options.data)
        _copy(source, output.folder)
        write_special_tokens(output.folder)
        checked = check(source, output.folder, options.text)
        found = report(checked, source)
        output.publish()
    return [("exported", str(source.folder)), *found, ("written", str(final))]


def _copy(source: ExportSource, folder: Path) -> None:
    names = [*FILES, "tokenizer.json", "README.md"]
    files = [source.folder / name for name in names if (source.folder / name).is_file()]
    require_space(folder, sum(file.stat().st_size for file in files), "the model")
    for file in files:
        shutil.copyfile(file, folder / file.name)
