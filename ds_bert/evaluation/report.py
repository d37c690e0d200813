"""The figures of an evaluation with their intervals, as one record; docs/evaluation.md."""

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
            "num_documents": int(items.documents.max(initial=-1)) + 1,
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


def comparison(items: Items, other: Items, name: str) -> dict[str, Any]:
    """The record of another model on the same masks, and the differences to it.

    Args:
        items: of the model.
        other: of the other one.
        name: of the other one, for the record.
    """
    return {
        "checkpoint": name,
        **other.metrics(),
        "intervals": intervals(other),
        "differences": differences(items, other),
    }
