"""The figures of an evaluation with their intervals, as one record; docs/evaluation.md."""

from collections.abc import Sequence
from typing import Any

from ds_bert.evaluation.baseline import baseline_figures
from ds_bert.evaluation.bootstrap import LEVEL, NUM_RESAMPLES, Ratio, estimates
from ds_bert.evaluation.compare import differences
from ds_bert.evaluation.items import Items
from ds_bert.evaluation.metrics import perplexity
from ds_bert.evaluation.slices import slice_figures


def figures(items: Items) -> dict[str, Any]:
    """The metrics of `Items.metrics`, then what surrounds them.

    Returns:
        the metrics; "intervals" of losses, perplexity and accuracies by their names, those of
        corpora too; "bootstrap", how they were made; "slices", see `slice_figures`; and
        NAME_baseline, see `baseline_figures`.
    """
    return {
        **items.metrics(),
        "intervals": intervals(items),
        "bootstrap": {
            "unit": "document",
            "num_documents": items.num_documents,
            "num_resamples": NUM_RESAMPLES,
            "level": LEVEL,
        },
        "slices": slice_figures(items),
        **baseline_figures(items),
    }


def intervals(items: Items) -> dict[str, list[float]]:
    """Interval of each loss, perplexity and accuracy, of all and of each corpus."""
    ratios: dict[str, Ratio] = items.ratios()
    for number, corpus in enumerate(items.table.corpora):
        chosen = {
            of: items.sequences["corpus"][owners] == number for of, owners in items.owners.items()
        }
        own = items.ratios(chosen)
        ratios |= {f"{name}_{corpus.name}": ratio for name, ratio in own.items()}
    found = {}
    for name, estimate in estimates(ratios).items():
        found[name] = estimate.interval
        if name == "mlm_loss":
            found["perplexity"] = estimate.through(perplexity).interval
    return found


def as_record(
    found: Sequence[tuple[Items, dict[str, Any]]], names: Sequence[str]
) -> dict[str, Any]:
    """The record of a model and, under "compare", that of another one on the same masks.

    Args:
        found: of one model or two what was evaluated, and what there is to tell beside it.
        names: of the models.

    Returns:
        `figures` of the first; of the second its name as "checkpoint", the metrics, "intervals",
        and "differences" of the first to it, see `ds_bert.evaluation.compare.differences`.
    """
    (items, more), *others = found
    record = figures(items) | more
    for (other, more_of_other), name in zip(others, names[1:], strict=True):
        about = {"checkpoint": name, **other.metrics(), "intervals": intervals(other)}
        record["compare"] = about | more_of_other | {"differences": differences(items, other)}
    return record
