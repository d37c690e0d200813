"""The charts of a run, from the rows of its log."""

from collections.abc import Iterator, Sequence

from ds_bert.reports.charts import Line
from ds_bert.reports.pages import Chart
from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.courses import (
    TRAIN,
    VALIDATION,
    Builder,
    Course,
    Levels,
    Value,
    field,
)
from ds_bert.run_report.history import PAIRS, Phase, Row

_MAX_LINES = 5  # of many layers or corpora
NAMES = {"mlm": "Masked-LM", "nsp": "Next-sentence", "sop": "Sentence-order"}


def all_charts(
    phases: Sequence[Phase], base: Baselines, beside: Sequence[Line] = ()
) -> list[Chart]:
    """Every chart that the logs have values for.

    Args:
        phases: of the run, one after the other.
        base: of the last one's data.
        beside: masked-LM losses of other runs.
    """
    builder = Builder(phases)
    return [chart for chart in _charts(builder, phases, base, beside) if chart is not None]


def _charts(
    builder: Builder, phases: Sequence[Phase], base: Baselines, beside: Sequence[Line]
) -> Iterator[Chart | None]:
    names = sorted({name for phase in phases for name in phase.losses}, key=_order)
    for name in (n for n in names if n in NAMES):
        yield builder.chart(
            f"{NAMES[name]} loss",
            [
                Course("training", TRAIN, field(f"{name}_loss")),
                Course("validation", VALIDATION, field(f"{name}_loss")),
            ],
            "nats",
            _loss_levels(name, base),
            _LOSS_TEXTS.get(name, ""),
            beside=beside if name == "mlm" else (),
        )
        yield builder.chart(
            f"{NAMES[name]} accuracy",
            [
                Course("training", TRAIN, field(f"{name}_accuracy")),
                Course("validation", VALIDATION, field(f"{name}_accuracy")),
            ],
            "share",
            _accuracy_levels(name, base),
        )
    yield builder.chart("Masked-LM loss by corpus", _of_corpora(phases), "nats")
    yield builder.chart("Learning rate", [Course("rate", TRAIN, field("learning_rate"))], "")
    yield builder.chart(
        "Gradient norm",
        [Course("norm", TRAIN, field("gradient_norm"))],
        "before clipping",
        _clipping(phases),
        is_log=True,
    )
    yield builder.chart("Trust ratios", _trust_ratios(phases), "geometric mean", is_log=True)
    yield builder.chart(
        "Loss scale", [Course("scale", TRAIN, field("loss_scale"))], "", is_log=True
    )
    if any(row.get("skipped_steps") for phase in phases for row in phase.train):
        skipped = [Course("skipped", TRAIN, field("skipped_steps"), ".0f")]
        yield builder.chart("Skipped steps", skipped, "in all")
    speed = [Course("tokens", TRAIN, field("tokens_per_second"), ",.0f")]
    yield builder.chart("Tokens per second", speed, "without padding")
    mfu = [Course("MFU", TRAIN, field("mfu"), ".1%")]
    yield builder.chart("Model FLOPs utilisation", mfu, "share of peak")
    yield builder.chart(
        "Time beside computing",
        [
            Course("waiting for data", TRAIN, _share_waited, ".1%"),
            Course("validating", TRAIN, _share_of("validation_seconds"), ".1%"),
            Course("saving", TRAIN, _share_of("save_seconds"), ".1%"),
        ],
        "share of the time",
    )
    memory = [Course("memory", TRAIN, lambda row: _scaled(row, "memory_bytes", 1e9), ".2f")]
    yield builder.chart("Memory of rank 0", memory, "GB")


_LOSS_TEXTS = {
    "mlm": "Of masked tokens. Lines across: what needs no context, or the token before alone.",
}


def _loss_levels(name: str, base: Baselines) -> Levels:
    levels = {
        "mlm": [
            ("unigram entropy", base.unigram),
            ("no context", base.no_context),
            ("bigram", base.bigram),
        ]
    }
    found = levels.get(name, [("guessing", base.pair_entropy)])
    return [(label, value) for label, value in found if value is not None]


def _accuracy_levels(name: str, base: Baselines) -> Levels:
    if name not in PAIRS:
        return []
    found = [("always the same answer", base.pair_majority), ("by lengths", base.pair_lengths)]
    return [(label, value) for label, value in found if value is not None]


def _clipping(phases: Sequence[Phase]) -> Levels:
    limit = phases[-1].record.get("deepspeed", {}).get("gradient_clipping")
    return [("clipped at", limit)] if limit else []


def _of_corpora(phases: Sequence[Phase]) -> list[Course]:
    prefix = "mlm_loss_"
    names = {key for phase in phases for row in phase.validation for key in row}
    corpora = sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    shown = corpora if len(corpora) <= _MAX_LINES else corpora[:_MAX_LINES]
    return [Course(name, VALIDATION, field(prefix + name)) for name in shown]


def _trust_ratios(phases: Sequence[Phase]) -> list[Course]:
    """Of embeddings, heads, and the first, middle and last layer."""
    rows = [
        row["trust_ratios"] for phase in phases for row in phase.train if row.get("trust_ratios")
    ]
    names = list(rows[-1]) if rows else []
    layers = sorted((n for n in names if n.startswith("layer")), key=lambda n: int(n.split()[1]))
    middle = dict.fromkeys(layers[k] for k in (0, len(layers) // 2, -1)) if layers else {}
    shown = [name for name in names if name not in layers] + list(middle)
    return [Course(name, TRAIN, field("trust_ratios", name)) for name in shown]


def _share_waited(row: Row) -> float | None:
    wait = field("data_wait_share")(row)
    computing = field("interval_seconds")(row)
    if wait is None or computing is None:
        return wait
    return wait * computing / max(1e-9, _seconds(row))


def _share_of(name: str) -> Value:
    def value(row: Row) -> float | None:
        seconds = field(name)(row)
        whole = _seconds(row)
        return None if seconds is None or whole <= 0 else seconds / whole

    return value


def _seconds(row: Row) -> float:
    """From the row before to this one."""
    names = ("interval_seconds", "validation_seconds", "save_seconds")
    return sum(field(name)(row) or 0.0 for name in names)


def _scaled(row: Row, name: str, unit: float) -> float | None:
    value = field(name)(row)
    return None if value is None else value / unit


def _order(name: str) -> int:
    return list(NAMES).index(name) if name in NAMES else len(NAMES)
