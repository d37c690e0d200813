"""What has to be as in a checkpoint for a run to go on from it; all else may differ.

Facts are plain values by name. A run writes them into the manifest of each of its checkpoints.
"""

from collections.abc import Iterable
from typing import Any

from transformers import BertConfig

from ds_bert.checkpoint.folder import Checkpoint
from ds_bert.dataset.options import MLM_NSP
from ds_bert.errors import CheckpointError
from ds_bert.instances.mixture import BY_SIZE
from ds_bert.model import pretrained

# The state is cut anew where these differ (`ds_bert.checkpoint.resharding`), so they may.
LAYOUT = ("zero_stage", "world_size")
DECAY_START = "decay_start"  # the step at which a branch that decays has left another run
EMA_DECAY = "ema_decay"  # of the weights' moving average; in checkpoints that hold one
KERNELS = "kernels"  # that were chosen by trial, and the device: those of a run stay the same
# What moments depend on: these count where only moments are taken, too.
MOMENTS = ("objective", "optimizer", "precision")
OWN_MASKS = "as the data set says"  # the fact "masks" of a run that changes nothing about them
# By name of a fact that older checkpoints do not have: what those were written with.
BEFORE: dict[str, Any] = {
    "objective": MLM_NSP,
    "masks": OWN_MASKS,
    "corpus_weights": BY_SIZE,
    "batch_ramp": None,
}


def check_resume(facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that a run with these facts cannot go on from.

    Raises:
        CheckpointError: names every fact that differs.
    """
    cure = "choose another output_dir, and --init_from to start from its weights"
    may_differ = {*LAYOUT, DECAY_START, EMA_DECAY}
    _compare(facts, checkpoint, [name for name in facts if name not in may_differ], cure)


def check_moments(facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose moments a run with these facts cannot take over.

    Raises:
        CheckpointError: names every fact that differs.
    """
    cure = "use the same, or leave carry_moments out to take the weights only"
    _compare(facts, checkpoint, MOMENTS, cure)


def layout(facts: dict[str, Any]) -> str:
    """How the state of a run with these facts lies on its ranks, in words."""
    world_size, stage = facts["world_size"], facts["zero_stage"]
    return f"{world_size} rank{'s' * (world_size > 1)} at ZeRO stage {stage}"


def _compare(
    facts: dict[str, Any], checkpoint: Checkpoint, names: Iterable[str], cure: str
) -> None:
    """Compare the named facts; model sizes have a message of their own and always count."""
    sizes, found_sizes = (BertConfig(**known["model"]) for known in (facts, checkpoint.facts))
    pretrained.check_same_shape(sizes, found_sizes, str(checkpoint.folder))
    found = BEFORE | checkpoint.facts
    differ = [
        f"{name} {found.get(name)} instead of {facts[name]}"
        for name in names
        if name != "model" and found.get(name) != facts[name]
    ]
    if differ:
        raise CheckpointError(
            f"{checkpoint.folder} was written with other settings: {', '.join(differ)}; {cure}"
        )
