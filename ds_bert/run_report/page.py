"""The page of a run, and the same for programs: report.html and report.json in its folder."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ds_bert import files
from ds_bert.errors import DataError
from ds_bert.reports.charts import INSTALL, is_available
from ds_bert.reports.pages import render
from ds_bert.run_report import baselines
from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.diagnosis import RULES, diagnose
from ds_bert.run_report.history import PAGE, Phase, near, read_phases, run_name
from ds_bert.run_report.panels import all_charts
from ds_bert.run_report.recorded import recorded_beside
from ds_bert.run_report.results import Table
from ds_bert.run_report.rules.finding import Finding, values
from ds_bert.run_report.scores import score_charts

RECORD = "report.json"


def write_report(
    folder: Path, results: Sequence[Table] = (), into: Path | None = None
) -> list[Finding]:
    """Write the report of a run, in progress or ended.

    Args:
        folder: of the run.
        results: what was found of its model since.
        into: another folder for the page; None: that of the run.

    Returns:
        what is wrong with its last phase, the worst first.

    Raises:
        DataError: the folder has no log.
        OSError: the report cannot be written.
    """
    phases = read_phases(folder)
    known = _known(folder)
    bases = [_baselines(phase, known) for phase in phases]
    findings = [diagnose(phase, base) for phase, base in zip(phases, bases, strict=True)]
    record = {
        "step": phases[-1].step,
        "findings": [
            {**one._asdict(), "severity": one.severity.name.lower(), "phase": number}
            for number, found in enumerate(findings, 1)
            for one in found
        ],
        "baselines": {_key(p): b.as_dict() for p, b in zip(phases, bases, strict=True)},
    }
    place = into or folder
    title = f"Run {run_name(place)}"
    files.write_text(place / PAGE, _page(title, phases, bases, findings, results))
    files.write_text(place / RECORD, files.as_json(record, indent=1) + "\n")
    return findings[-1]


def _page(
    title: str,
    phases: Sequence[Phase],
    bases: Sequence[Baselines],
    findings: Sequence[Sequence[Finding]],
    results: Sequence[Table],
) -> str:
    last = phases[-1]
    told = [
        (one, f"phase {number}: " if len(phases) > 1 else "")
        for number, found in reversed(list(enumerate(findings, 1)))
        for one in found
    ]
    return render(
        "run.html.j2",
        title,
        summary=list(_summary(phases)),
        findings=told,
        num_rules=len(RULES),
        has_baselines=bases[-1].unigram is not None,
        is_young=last.step < last.max_steps,
        charts=[
            *all_charts(phases, bases[-1], recorded_beside(phases[0], bases[0])),
            *score_charts(phases),
        ],
        missing="" if is_available() else INSTALL,
        phases=list(_phase_rows(phases, bases)),
        results=results,
        data=list(_data(bases[-1])),
        settings=list(_settings(last)),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _known(folder: Path) -> dict[str, Any]:
    """Baselines of the report before: the data may be elsewhere by now."""
    try:
        return dict(files.parse_json((folder / RECORD).read_text(encoding="utf-8"))["baselines"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _key(phase: Phase) -> str:
    """What the baselines of a phase depend on."""
    facts = phase.record.get("facts", {})
    return f"{facts.get('train_data', '')} {phase.setting('max_seq_length', 0)} {_shares(phase)}"


def _shares(phase: Phase) -> tuple[float, float]:
    """Of the masked tokens: shown as [MASK], and as random ones."""
    return phase.setting("mask_replace_prob", 0.8), phase.setting("random_replace_prob", 0.1)


def _baselines(phase: Phase, known: dict[str, Any]) -> Baselines:
    if (found := known.get(_key(phase))) and found.get("unigram") is not None:
        return Baselines(**{k: v for k, v in found.items() if k in Baselines.__dataclass_fields__})
    for folder in near(phase.folder, phase.setting("train_data", "")):
        try:
            length = phase.setting("max_seq_length", 0)
            return baselines.of_data_set(str(folder), length, *_shares(phase))
        except DataError:
            continue
    return Baselines()


def _summary(phases: Sequence[Phase]) -> Iterator[tuple[str, str]]:
    """Each phase's steps and time, then the last one's newest figures."""
    for number, one in enumerate(phases, 1):
        done = one.step / max(1, one.max_steps)
        time = f" in {tqdm.format_interval(one.seconds)}" if one.seconds else ""
        its = f"steps of phase {number}" if len(phases) > 1 else "steps"
        yield its, f"{one.step:,} of {one.max_steps:,} ({done:.0%}){time}"
    phase = phases[-1]
    if phase.diverged is not None:
        yield "state", "ended by itself: diverged"
    for name in phase.losses:
        for kind, rows in (("training", phase.train), ("validation", phase.validation)):
            if rows and rows[-1].get(f"{name}_loss") is not None:
                accuracy = rows[-1].get(f"{name}_accuracy")
                told = "" if accuracy is None else f" nats, accuracy {accuracy:.1%}"
                yield f"{name} {kind}", f"{rows[-1][f'{name}_loss']:.4f}{told}"
    if phase.train and phase.train[-1].get("tokens_per_second"):
        yield "speed", f"{phase.train[-1]['tokens_per_second']:,.0f} tokens per second"
    yield "device", str(phase.record.get("device", "not known"))


def _phase_rows(phases: Sequence[Phase], bases: Sequence[Baselines]) -> Iterator[tuple[str, ...]]:
    for number, (phase, base) in enumerate(zip(phases, bases, strict=True), 1):
        optimizer = phase.record.get("optimizer", {})
        num_tokens = sum(values(phase.train, "num_tokens"))
        yield (
            f"{number}",
            run_name(phase.folder),
            f"{phase.step:,}",
            f"{phase.setting('max_seq_length', '')}",
            f"{phase.batch_size:,}",
            f"{optimizer.get('params', {}).get('lr', '')}",
            f"{num_tokens / base.num_tokens:.2f}" if base.num_tokens else "",
            f"{len(phase.restarts)}",
        )


def _data(base: Baselines) -> Iterator[tuple[str, str]]:
    texts = {
        "num_tokens": ("tokens", ",.0f"),
        "num_sequences": ("sequences", ",.0f"),
        "vocab_size": ("vocabulary", ",.0f"),
        "unigram": ("unigram entropy, nats", ".3f"),
        "no_context": ("loss without context, nats", ".3f"),
        "bigram": ("bigram loss, nats", ".3f"),
        "pair_majority": ("more frequent answer on pairs", ".1%"),
        "pair_lengths": ("pairs answered by lengths alone", ".1%"),
        "unknown_share": ("unknown words", ".2%"),
        "pieces_per_word": ("tokens for each word", ".2f"),
        "near_duplicates": ("near-duplicate documents", ".1%"),
        "repeated_sentences": ("repeated sentences", ".1%"),
    }
    for name, (label, digits) in texts.items():
        if (value := getattr(base, name)) is not None:
            yield label, format(value, digits)


def _settings(phase: Phase) -> Iterator[tuple[str, str]]:
    """What the run was told to do."""
    record, model = phase.record, phase.record.get("model_config", {})
    if "num_parameters" in record:
        yield "parameters", f"{record['num_parameters']:,}"
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    yield from ((name, f"{model[name]:,}") for name in names if name in model)
    yield "optimizer", f"{record.get('optimizer', {}).get('type', 'not known')}"
    parameters = record.get("optimizer", {}).get("params", {})
    yield from ((name, f"{value}") for name, value in parameters.items() if value is not None)
    yield from ((name, f"{value}") for name, value in record.get("batch", {}).items())
    section = record.get("ds_bert", {})
    yield from ((name, f"{v}") for name, v in section.items() if v not in (None, "", False))
    yield from record.get("versions", {}).items()
