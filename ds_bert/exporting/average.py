"""The mean of several checkpoints' weights as a model.

Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; over the
last checkpoints of a run as in Vaswani et al. 2017, section 6.1.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ds_bert.checkpoint.folder import CHECKPOINTS, list_checkpoints
from ds_bert.checkpoint.hf_folder import write_model_folder
from ds_bert.errors import CheckpointError, ConfigurationError, require
from ds_bert.exporting.checks import Report, check, report
from ds_bert.exporting.same_files import write_special_tokens
from ds_bert.exporting.same_model import quiet_transformers
from ds_bert.exporting.source import ExportSource, find_source, require_free
from ds_bert.files import OutputFolder, require_space
from ds_bert.weights.hugging_face import read_weights

_NOT_OF_THE_MODEL = {"transformers_version", "dtype"}


def average(
    paths: Sequence[str],
    output_dir: str,
    last: int | None = None,
    overwrite: bool = False,
    data: str | None = None,
) -> Report:
    """Write the mean of the weights of several models as a Hugging Face folder, and check it.

    Args:
        paths: checkpoints, runs (the newest good one of each), model folders; with `last` one run.
        output_dir: appears whole or not at all.
        last: take the newest so many checkpoints of the run.
        overwrite: replace a model folder that is there.
        data: a data set to check the result with; None: as the run says.

    Returns:
        what was averaged and found, as titles and texts.

    Raises:
        ConfigurationError: too few, or `output_dir` is in use.
        CheckpointError: one is damaged, or of another model or vocabulary.
    """
    final = Path(output_dir)
    with OutputFolder(final) as output:
        require_free(final, overwrite)
        sources = [find_source(path, data) for path in _chosen(paths, last)]
        for source in sources[1:]:
            _require_alike(sources[0], source)
        weights = mean_weights(sources)
        require_space(final, 4.1 * sum(weight.numel() for weight in weights.values()), "the model")
        _write(output.folder, sources, weights)
        result = _as_source(sources[0], output.folder)
        found = report(check(result, output.folder), result)
        output.publish()
    names = [("mean of", str(source.folder)) for source in sources]
    return [*names, *found, ("written", str(final))]


def _chosen(paths: Sequence[str], last: int | None) -> list[str]:
    if last is not None:
        require(last >= 2, "last", last, "2 or more checkpoints")
        require(len(paths) == 1, "checkpoint", list(paths), "one run, with --last")
        run = Path(paths[0])
        folder = run if run.name == CHECKPOINTS else run / CHECKPOINTS
        found = [str(checkpoint.folder) for checkpoint in list_checkpoints(folder)]
        if len(found) < last:
            raise ConfigurationError(
                f"--last {last}: found {len(found)} checkpoints in {folder}; ask for fewer, or "
                "let runs keep more (keep_checkpoints)"
            )
        return found[:last]
    if len(paths) < 2:
        raise ConfigurationError(
            "found one --checkpoint, expected two or more; --last N takes the newest N of a run"
        )
    return list(paths)


def _require_alike(one: ExportSource, other: ExportSource) -> None:
    """Refuse to average what is not the same function of its weights, or of other tokens."""
    configs = [source.config.to_dict() for source in (one, other)]
    names = sorted((configs[0].keys() | configs[1].keys()) - _NOT_OF_THE_MODEL)
    pairs = {name: [config.get(name) for config in configs] for name in names}
    pairs["vocabulary"] = [source.vocabulary.sha256[:12] for source in (one, other)]
    pairs["do_lower_case"] = [source.do_lower_case for source in (one, other)]
    differ = [f"{name} {b!r} instead of {a!r}" for name, (a, b) in pairs.items() if a != b]
    if differ:
        raise CheckpointError(
            f"{other.folder} cannot be averaged with {one.folder}: {', '.join(differ)}; name "
            "checkpoints of one model"
        )


def mean_weights(sources: Sequence[ExportSource]) -> dict[str, Tensor]:
    """The mean of each weight over models, added up in float64 and rounded once to fp32.

    Raises:
        CheckpointError: weights have other names or shapes.
    """
    total: dict[str, Tensor] = {}
    for source in sources:
        weights = read_weights(source.folder)
        shapes = {name: weight.shape for name, weight in weights.items()}
        if total and shapes != {name: weight.shape for name, weight in total.items()}:
            raise CheckpointError(
                f"{source.folder} has weights of other names or shapes than {sources[0].folder}; "
                "name checkpoints of one model"
            )
        for name, weight in weights.items():
            total[name] = total[name] + weight.double() if name in total else weight.double()
    return {name: (weight / len(sources)).float() for name, weight in total.items()}


def _write(folder: Path, sources: list[ExportSource], weights: dict[str, Tensor]) -> None:
    first = sources[0]
    with torch.device("meta"):  # gives the configuration alone
        skeleton = first.model_class(first.config)
    steps = [f"{source.step:,}" for source in sources if source.step is not None]
    facts = {"mean of the weights of": f"{len(sources)} checkpoints"}
    if len(steps) == len(sources):
        facts["at steps"] = ", ".join(steps)
    title = "BERT pre-trained with ds_bert, averaged"
    tokenizer = first.vocabulary, first.do_lower_case
    with quiet_transformers():
        write_model_folder(folder, skeleton, weights, *tokenizer, facts, title)
    write_special_tokens(folder)


def _as_source(first: ExportSource, folder: Path) -> ExportSource:
    """The average as a source of its own check."""
    return ExportSource(
        str(folder),
        folder,
        None,
        first.config,
        first.vocabulary,
        first.do_lower_case,
        first.record,
        [],
        first.stores,
    )
