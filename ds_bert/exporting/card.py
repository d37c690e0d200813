"""The model card: what a stranger has to know of a model, from what its run has recorded.

The head is what the Hugging Face hub reads (`ModelCardData`); the rest is for people.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ds_bert import __version__
from ds_bert.exporting.figures import Rows, course, draw_losses, evaluation, for_the_hub, table
from ds_bert.exporting.source import ExportSource

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
    validations = [row for row in source.rows if row.get("kind") == "validation"]
    found = metrics or (validations or [{}])[-1]
    tags = ["bert", "fill-mask", "ds_bert", *["sentence-transformers"] * is_embedder]
    head = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=tags,
        model_name=name,
        eval_results=for_the_hub(found) or None,
    )
    losses = (evaluation(found), draw_losses(folder, source.rows), course(source.rows))
    sections = [
        f"---\n{head.to_yaml().strip()}\n---",
        f"# {name}",
        _summary(source),
        table(_facts(source.folder / "README.md")),
        use.format(name=name),
        *_section("Training", table(_training(source)), _recipe(source)),
        *_section("Data", table(_data(source))),
        *_section("Evaluation", *losses),
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
        "weights": _averaged(source),
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


def _averaged(source: ExportSource) -> str | None:
    decay = source.ema_decay
    return None if decay is None else f"moving average over the steps, decay {decay:g}"


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


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
