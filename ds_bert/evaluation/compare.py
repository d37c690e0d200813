"""Two models on the same masks: is one better, or might it be chance?"""

from typing import Any

import numpy as np

from ds_bert.evaluation.bootstrap import Estimate, estimates
from ds_bert.evaluation.items import Items
from ds_bert.evaluation.metrics import perplexity
from ds_bert.evaluation.slices import as_fields


def differences(items: Items, other: Items) -> dict[str, dict[str, Any]]:
    """How far a model is from another one, for each figure that both have.

    Documents are drawn anew for both at once, so what makes a document hard for both cancels out.

    Args:
        items: of the model.
        other: of the other one on the same instances.

    Returns:
        of NAME_loss, perplexity and NAME_accuracy: "difference", the model's minus the other's,
        "difference_interval", "p_value" of no difference, and "better": "this", "other", or None
        where the interval holds 0.
    """
    assert np.array_equal(items.sequences["row"], other.sequences["row"])
    both = [
        {("this", name): ratio for name, ratio in items.ratios().items()},
        {("other", name): ratio for name, ratio in other.ratios().items()},
    ]
    found = estimates(both[0] | both[1])
    names = [name for _, name in both[0] if ("other", name) in found]
    rows = {}
    for name in names:
        this, that = found["this", name], found["other", name]
        rows[name] = as_row(this.minus(that), is_loss=name.endswith("_loss"))
        if name == "mlm_loss":
            difference = this.through(perplexity).minus(that.through(perplexity))
            rows["perplexity"] = as_row(difference, is_loss=True)
    return rows


def as_row(difference: Estimate, is_loss: bool) -> dict[str, Any]:
    """The record of one difference; of a loss, less is better."""
    low, high = difference.interval
    better = "this" if (high < 0 if is_loss else low > 0) else None
    if low > 0 if is_loss else high < 0:
        better = "other"
    row = as_fields("difference", difference)
    return {**row, "p_value": difference.p_value, "better": better}
