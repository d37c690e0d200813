"""From any BERT to a folder of another kind: read, change what is asked for, write, report."""

import re
from pathlib import Path

from transformers.activations import ACT2FN

from ds_bert.errors import ConfigurationError, require
from ds_bert.files import OutputFolder, require_space
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.weights.recognise import read_model
from ds_bert.weights.resize import exchange_vocabulary, is_lower_cased, resize_positions
from ds_bert.weights.source import CONFIGS, EMBEDDINGS, OUTPUT_BIAS, POSITIONS, SourceModel
from ds_bert.weights.write import TITLES, write_model

Report = list[tuple[str, str]]
MAX_POSITIONS = 1 << 16
_OPTIMIZER = re.compile(
    r"(adam_[mv]|Adam(_1)?|lamb_[mv]|LAMB(_1)?|[mv])$|global_step|_power$|loss_scale|good_steps"
)


def convert(
    source: str,
    output_dir: str,
    *,
    to: str = "hf",
    config_file: str | None = None,
    source_vocab_file: str | None = None,
    vocab_file: str | None = None,
    do_lower_case: bool | None = None,
    hidden_act: str | None = None,
    max_position_embeddings: int | None = None,
    seed: int = 42,
    overwrite: bool = False,
) -> Report:
    """Read a BERT, change what is asked for, and write it; the result is read back and compared.

    Args:
        source: see `recognise.KNOWN`.
        output_dir: appears whole or not at all.
        to: what to write, one of `write.TITLES`.
        config_file: the source's configuration, where none lies beside it.
        source_vocab_file: the source's vocabulary, where none lies beside it.
        vocab_file: the vocabulary to have; it is the source's, where no other is known.
        do_lower_case: casing of the tokenizer; None: as the source says, or the vocabulary looks.
        hidden_act: activation to compute with, where the configuration says another.
        max_position_embeddings: positions to have; None: as many as there are.
        seed: of the weights of a head that the source lacks.
        overwrite: replace a model folder that is there.

    Returns:
        what was found, left out, initialised, changed and written: titles and texts.

    Raises:
        ConfigurationError, CheckpointError, DataError: what does not fit, and what to do.
    """
    _check(to, hidden_act, max_position_embeddings)
    final = Path(output_dir)
    with OutputFolder(final) as output:
        _require_free(final, Path(source), overwrite)
        model = read_model(source, config_file, source_vocab_file, seed)
        report = _describe(model)
        report += _settle_vocabulary(model, vocab_file)
        report.append(_settle_casing(model, do_lower_case))
        report += _settle_sizes(model, max_position_embeddings, hidden_act)
        num_bytes = 4.1 * sum(weight.numel() for weight in model.weights.values())
        require_space(final, num_bytes, "the model")
        report += [("note", note) for note in write_model(output.folder, model, to)]
        output.publish()
    return [*report, ("written", f"{final}, {TITLES[to]}")]


def _check(to: str, hidden_act: str | None, positions: int | None) -> None:
    require(to in TITLES, "to", to, f"one of {', '.join(TITLES)}")
    known = hidden_act is None or hidden_act in ACT2FN
    require(known, "hidden_act", hidden_act, "an activation of transformers, such as gelu_new")
    fits = positions is None or 1 <= positions <= MAX_POSITIONS
    require(fits, "max_position_embeddings", positions, f"from 1 to {MAX_POSITIONS:,}")


def _require_free(final: Path, source: Path, overwrite: bool) -> None:
    if source.exists() and final.resolve() in (source.resolve(), source.resolve().parent):
        raise ConfigurationError(f"{final} holds the source; choose another --output_dir")
    is_empty = not final.exists() or (final.is_dir() and not any(final.iterdir()))
    is_model = any((final / name).is_file() for name in CONFIGS)
    if not is_empty and not (overwrite and is_model):
        raise ConfigurationError(
            f"{final} exists; choose another --output_dir, or replace a model with --overwrite"
        )


def _describe(model: SourceModel) -> Report:
    config, total = model.config, sum(weight.numel() for weight in model.weights.values())
    sizes = (
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{config.num_attention_heads} heads, {config.max_position_embeddings} positions"
    )
    slots = [name for name in model.left_out if _OPTIMIZER.search(name)]
    others = [name for name in model.left_out if name not in slots]
    shown = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
    left_out = [f"{len(slots)} of the optimizer"] * bool(slots)
    left_out += [f"{len(others)} others ({shown})"] * bool(others)
    return [
        ("found", model.found),
        ("sizes", sizes),
        ("weights", f"{total:,} in {len(model.weights)} tensors"),
        ("left out", ", ".join(left_out) or "nothing"),
        ("initialised", ", ".join(model.initialised) or "nothing"),
        *[("note", note) for note in model.notes],
    ]


def _settle_vocabulary(model: SourceModel, vocab_file: str | None) -> Report:
    """Give the model the vocabulary that it is to have."""
    new = None if vocab_file is None else Vocabulary.read(vocab_file)
    model.vocabulary = old = model.vocabulary or new
    if old is None:
        raise ConfigurationError(
            f"{model.found}: no vocab.txt beside it; name its vocabulary with --vocab_file"
        )
    report = _fit_rows(model, old)
    model.config.pad_token_id = (new or old).pad_id
    if new is None or new.sha256 == old.sha256:
        return [*report, ("vocabulary", f"{old.size:,} tokens")]
    casing = is_lower_cased(old) if model.do_lower_case is None else model.do_lower_case
    counts = exchange_vocabulary(model, new, casing)
    text = (
        f"{new.size:,} tokens instead of {old.size:,}: {counts.shared:,} shared, "
        f"{counts.pieces:,} new from their pieces, {counts.unknown:,} new from the mean of all, "
        f"{counts.dropped:,} dropped"
    )
    return [*report, ("vocabulary", text)]


def _fit_rows(model: SourceModel, vocabulary: Vocabulary) -> Report:
    """Refuse a vocabulary that is not of these weights; rows of padding are cut off."""
    rows = len(model.weights[EMBEDDINGS])
    surplus = rows - vocabulary.size
    is_padding = 0 < surplus < 8 and rows % 8 == 0
    if surplus < 0 or (surplus and model.may_be_padded and not is_padding):
        raise ConfigurationError(
            f"{model.found} has embeddings of {rows:,} tokens, its vocabulary has "
            f"{vocabulary.size:,}; name the one that it was trained with (--source_vocab_file)"
        )
    if not (surplus and model.may_be_padded):
        return []
    for name in (EMBEDDINGS, OUTPUT_BIAS):
        model.weights[name] = model.weights[name][: vocabulary.size].clone()
    model.config.vocab_size = vocabulary.size
    return [("padding", f"{surplus} rows after the vocabulary, up to a multiple of 8, cut off")]


def _settle_casing(model: SourceModel, do_lower_case: bool | None) -> tuple[str, str]:
    why = "as asked for"
    if do_lower_case is None:
        do_lower_case, why = model.do_lower_case, "as its tokenizer says"
    if do_lower_case is None:
        assert model.vocabulary is not None
        do_lower_case, why = is_lower_cased(model.vocabulary), "as the vocabulary looks"
    model.do_lower_case = do_lower_case
    return "text", f"{'lower-cased' if do_lower_case else 'cased'} ({why})"


def _settle_sizes(model: SourceModel, positions: int | None, hidden_act: str | None) -> Report:
    report, before = [], len(model.weights[POSITIONS])
    if positions is not None and positions != before:
        resize_positions(model, positions)
        how = "the old ones repeated" if positions > before else "the last ones cut off"
        report.append(("positions", f"{positions:,} instead of {before:,}: {how}"))
    if hidden_act is not None:
        model.config.hidden_act = hidden_act
        report.append(("activation", f"{hidden_act}, as asked for"))
    return report
