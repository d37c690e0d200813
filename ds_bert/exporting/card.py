"""The model card: what a stranger has to know of a model, from what its run has recorded.

The head is what the Hugging Face hub reads (`ModelCardData`); the rest is for people.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ds_bert import __version__, files
from ds_bert.errors import DataError
from ds_bert.exporting.source import ExportSource

Rows = dict[str, Any]
_FIGURES = ("mlm_loss", "perplexity", "mlm_accuracy")
_OF_PAIRS = ("nsp_loss", "nsp_accuracy", "sop_loss", "sop_accuracy")
_MAX_ROWS = 10  # of the course of validation
USE = """\
```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model="{name}")
```"""
USE_EMBEDDINGS = """
Embeddings, the mean over the last hidden states. The model was not trained to compare sentences:
fine-tune it for that first.

```python
from sentence_transformers import SentenceTransformer

embeddings = SentenceTransformer("{name}").encode(["One sentence.", "Another one."])
```"""


def read_metrics(file: str) -> dict[str, Any]:
    """The JSON of `ds-bert evaluate`.

    Raises:
        DataError: not readable, or none of its figures in it.
    """
    try:
        metrics = files.parse_json(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--metrics {file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"--metrics {file}: not valid JSON ({error})") from None
    if not isinstance(metrics, dict) or "mlm_loss" not in metrics:
        raise DataError(
            f"--metrics {file}: found no mlm_loss, expected what ds-bert evaluate prints; make it "
            "anew: ds-bert evaluate --checkpoint RUN > FILE"
        )
    return metrics


def write_card(
    folder: Path,
    source: ExportSource,
    name: str,
    checked: list[str],
    *,
    language: list[str] | None = None,
    license: str | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Write README.md; the first table of the one that is there is taken over.

    Args:
        folder: the export.
        source: of the export.
        name: of the model, a folder's or a repository's.
        checked: lines about the checks.
        language: ISO 639 codes.
        license: an identifier of the hub's, such as apache-2.0; None: not stated.
        metrics: the JSON of `ds-bert evaluate`; None: the run's last validation.
    """
    is_embedder = (folder / "modules.json").is_file()
    use = USE + USE_EMBEDDINGS * is_embedder
    found = metrics or (source.validations or [{}])[-1]
    tags = ["bert", "fill-mask", "ds_bert", *["sentence-transformers"] * is_embedder]
    head = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=tags,
        model_name=name,
        eval_results=_results(found) or None,
    )
    sections = [
        f"---\n{head.to_yaml().strip()}\n---",
        f"# {name}",
        _summary(source),
        _table(_facts(source.folder / "README.md")),
        use.format(name=name),
        *_section("Training", _table(_training(source)), _recipe(source)),
        *_section("Data", _table(_data(source))),
        *_section("Evaluation", _evaluation(source, found, metrics), _course(source.validations)),
        *_section("Checked", "\n".join(f"* {line}" for line in checked)),
        *_section("Licence", license or "Not stated."),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _section(title: str, *parts: str) -> list[str]:
    parts = tuple(part for part in parts if part)
    return [f"## {title}", *parts] if parts else []


def _summary(source: ExportSource) -> str:
    config, limit = source.config, source.limit
    text = (
        f"A `{source.model_class.stock.__name__}` (objective {source.model_class.objective}): "
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {config.num_attention_heads} "
        f"heads, {'lower-cased' if source.do_lower_case else 'cased'} vocabulary of "
        f"{source.vocabulary.size:,} tokens, {config.max_position_embeddings} positions."
    )
    if limit < config.max_position_embeddings:
        text += f" In its last phase it was trained on sequences of up to {limit} tokens."
    return text


def _facts(card: Path) -> Rows:
    """The rows of the first table of a card that ds_bert wrote."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    table = re.search(r"^\| \| \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    rows = (line.strip("|").split("|") for line in table[1].splitlines()) if table else ()
    facts = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    return facts | {"ds_bert": __version__}


def _training(source: ExportSource) -> Rows:
    record, settings = source.record, source.settings
    if not settings:
        return {}
    optimizer = record.get("optimizer", {})
    rows = {
        "steps": f"{source.step} of {settings.get('max_steps')}",
        "batch": f"{record.get('batch', {}).get('train_batch_size')} sequences of up to "
        f"{settings.get('max_seq_length')} tokens",
        "optimizer": f"{optimizer.get('type')} {_listed(optimizer.get('params', {}))}",
        "schedule": settings.get("lr_scheduler_type"),
        "warm-up": f"{settings.get('warmup_steps')} steps",
        "precision": record.get("facts", {}).get("precision"),
        "started from": settings.get("decay_from") or settings.get("init_from") or "",
        "seed": settings.get("seed"),
        "software": _listed(record.get("versions", {})),
        "commit of ds_bert": record.get("commit"),
    }
    return _without_folders({name: value for name, value in rows.items() if value})


def _recipe(source: ExportSource) -> str:
    """All settings of the run, without the folders of one machine."""
    parts = {name: source.record.get(name) for name in ("ds_bert", "optimizer", "deepspeed")}
    known = {name: part for name, part in parts.items() if part}
    if not known:
        return ""
    text = json.dumps(_without_folders(known), indent=1)
    return f"<details><summary>All settings</summary>\n\n```json\n{text}\n```\n\n</details>"


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_path else value


def _data(source: ExportSource) -> Rows:
    rows: Rows = {}
    for name, store in source.stores.items():
        counts, report = store.meta["counts"], store.meta.get("report", {})
        text = ", ".join(f"{number:,} {what}" for what, number in counts.items())
        rows[name] = f"{text} (fingerprint {store.fingerprint[:12]})"
        if "pieces_per_word" in report:
            share = report.get("unknown_share", 0.0)
            rows[f"{name}, words"] = (
                f"{report['pieces_per_word']:.3f} tokens a word, {share:.3%} of the words unknown"
            )
    rows["vocabulary"] = (
        f"{source.vocabulary.size:,} tokens (sha256 {source.vocabulary.sha256[:12]})"
    )
    return rows


def _evaluation(source: ExportSource, found: dict[str, Any], metrics: Any) -> str:
    if "mlm_loss" not in found:
        return ""
    intervals = found.get("intervals") or {}
    rows = {name: found[name] for name in (*_FIGURES, *_OF_PAIRS) if name in found}
    shown = {name: f"{value:.4f}{_interval(intervals.get(name))}" for name, value in rows.items()}
    step = "" if metrics else f" at step {found['step']}"
    counts = f"{found['num_sequences']:,} sequences, " if "num_sequences" in found else ""
    masked = f", {found['masked_share']:.1%} masked" if "masked_share" in found else ""
    about = f"On {counts}held-out text{step}{masked}. Losses in nats."
    if intervals:
        about += " Brackets: 95 % bootstrap intervals by document."
    return f"{about}\n\n{_table(shown)}"


def _interval(ends: Any) -> str:
    is_known = isinstance(ends, list) and len(ends) == 2 and None not in ends
    return f" [{ends[0]:.4f}, {ends[1]:.4f}]" if is_known else ""


def _course(rows: list[dict[str, Any]]) -> str:
    """The validations of the run, evenly spread and with the last one; none where there is one."""
    if len(rows) < 2:
        return ""
    count = min(_MAX_ROWS, len(rows))
    chosen = [rows[round(n * (len(rows) - 1) / (count - 1))] for n in range(count)]
    names = [name for name in ("step", *_FIGURES, *_OF_PAIRS) if name in rows[-1]]
    lines = [[f"{_cell(row.get(name))}" for name in names] for row in chosen]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *lines])


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{'' if value is None else value}"


def _results(found: dict[str, Any]) -> list[EvalResult]:
    about: Rows = {
        "task_type": "fill-mask",
        "dataset_type": "held-out",
        "dataset_name": "held-out text",
    }
    kinds = {"perplexity": "perplexity", "mlm_accuracy": "accuracy"}
    return [
        EvalResult(**about, metric_type=kind, metric_name=name, metric_value=found[name])
        for name, kind in kinds.items()
        if found.get(name) is not None
    ]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _table(rows: Rows) -> str:
    return "\n".join(_lines(rows)) if rows else ""


def _lines(rows: Rows) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for name, value in rows.items():
        yield f"| {name} | {str(value).replace('|', '/')} |"
