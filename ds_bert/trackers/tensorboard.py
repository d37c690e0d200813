"""TensorBoard: event files in the folder tensorboard of the run."""

from typing import Any

from ds_bert.trackers.tracker import Start


class TensorBoard:
    """Writes event files; what earlier ones hold behind the start is marked as not to be drawn."""

    id = ""

    def __init__(self, start: Start):
        from torch.utils.tensorboard import SummaryWriter

        folder = str(start.folder / "tensorboard")
        self._writer: Any = SummaryWriter(folder, purge_step=start.step + 1)
        self._tell_settings(start)

    def _tell_settings(self, start: Start) -> None:
        """Its tab of hyperparameters; `add_hparams` would make a run of its own for them."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(start.settings, {"validation/mlm_loss": 0.0}):
            self._writer.file_writer.add_summary(summary)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Draw values at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
