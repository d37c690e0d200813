"""MLflow: to MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, or its own defaults."""

import logging
import os
import re

from ds_bert.trackers.tracker import Start

EXPERIMENT = "ds_bert"
_CHOICE = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


class Mlflow:
    """A run of MLflow: parameters where it begins, a config.json for each process."""

    def __init__(self, start: Start):
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._mlflow = mlflow
        if not any(name in os.environ for name in _CHOICE):
            mlflow.set_experiment(EXPERIMENT)
        run = mlflow.start_run(run_id=start.id or None, run_name=start.name)
        self.id = run.info.run_id
        if not start.id:  # they cannot be changed later
            mlflow.log_params(start.settings)
        mlflow.log_dict(start.record, f"config_from_step_{start.step}.json")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Draw values at a step."""
        metrics = {_NOT_IN_NAMES.sub("_", name): value for name, value in values.items()}
        self._mlflow.log_metrics(metrics, step=step, run_id=self.id)

    def close(self) -> None:
        """End the run there."""
        self._mlflow.end_run()
