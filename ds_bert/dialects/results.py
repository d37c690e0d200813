"""Files with the results of an evaluation, as other systems write them."""

import re
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.dialects.translate import Foreign
from ds_bert.errors import ConfigurationError


def write(command: Foreign, metrics: dict[str, Any]) -> Path | None:
    """Write what the users of that system look for into their output_dir.

    Args:
        command: the command line; without output_dir nothing is written.
        metrics: of `ds_bert.evaluation.saved_model.evaluate_path`.

    Returns:
        the file.
    """
    if "output_dir" not in command.given.explicit:
        return None
    name, text = _RESULTS[command.script.system](metrics)
    folder = Path(command.given["output_dir"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / name, text)
    except OSError as error:
        raise ConfigurationError(
            f"{folder / name}: cannot be written ({error.strerror}); choose another output_dir"
        ) from None
    return folder / name


def _google(metrics: dict[str, Any]) -> tuple[str, str]:
    step = re.search(r"step_(\d+)", metrics["checkpoint"])
    losses = [metrics[name] for name in ("mlm_loss", "nsp_loss") if name in metrics]
    values = {
        "global_step": int(step[1]) if step else 0,
        "loss": sum(losses),
        "masked_lm_accuracy": metrics["mlm_accuracy"],
        "masked_lm_loss": metrics["mlm_loss"],
        "next_sentence_accuracy": metrics.get("nsp_accuracy"),
        "next_sentence_loss": metrics.get("nsp_loss"),
    }
    lines = (f"{name} = {value}\n" for name, value in values.items() if value is not None)
    return "eval_results.txt", "".join(lines)


def _huggingface(metrics: dict[str, Any]) -> tuple[str, str]:
    losses = [metrics[name] for name in ("mlm_loss", "nsp_loss") if name in metrics]
    values = {
        "eval_loss": sum(losses),
        "eval_samples": metrics["num_sequences"],
        "perplexity": metrics["perplexity"],
    }
    return "eval_results.json", files.as_json(values, indent=4) + "\n"


_RESULTS = {"google": _google, "huggingface": _huggingface}
