"""Which rank this process is: from the variables of `deepspeed`, torchrun or srun, or none.

DeepSpeed and torch read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. A launcher sets
them all; srun sets others, which are translated; one plain process gets defaults.
"""

import os
import re
from collections.abc import Mapping, MutableMapping

from ds_bert.errors import ConfigurationError

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
# What srun gives to each task, by the name that torch knows.
_SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
    "MASTER_ADDR": "SLURM_STEP_NODELIST",
    "MASTER_PORT": "SLURM_JOB_ID",
}
DOOR = "DS_BERT_LAUNCHER"  # process of `ds-bert launch` on this host, if that has started us
VARIABLES = (*_RANKS, *_MEETING, DOOR)  # a process without them is no rank
STOP_FILE = "STOP"  # in the run's folder: asks it to stop
GROW_FILE = "GROW"  # the same, of `ds-bert launch --elastic`: it starts again with more hosts
_FIRST_PORT, _NUM_PORTS = 15_000, 15_000  # below the range of which kernels take ports for clients


def complete(environment: MutableMapping[str, str] = os.environ) -> None:
    """Complete the variables that DeepSpeed and torch read; those that are set stay.

    Raises:
        ConfigurationError: some are set and others missing, or they contradict each other.
    """
    if not any(name in environment for name in _RANKS) and _is_task_of_srun(environment):
        _translate(environment)
    _require_all_or_none(environment, _RANKS)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        environment.setdefault(name, value)
    _check_numbers(environment)
    if environment["WORLD_SIZE"] == "1":
        environment.setdefault("MASTER_ADDR", "127.0.0.1")
        environment.setdefault("MASTER_PORT", "0")  # any free port: nobody else has to find it
    _require_all_or_none(environment, (*_RANKS, *_MEETING))


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """This process's rank and the number of ranks, before they have met.

    Raises:
        ConfigurationError: as in `complete`.
    """
    completed = dict(environment)
    complete(completed)
    return int(completed["RANK"]), int(completed["WORLD_SIZE"])


def is_first_of_host(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether no other rank of this host comes before this one, as far as the launcher tells."""
    # Both: srun may show each task one GPU (LOCAL_RANK 0), and start launchers (SLURM_LOCALID 0).
    return all(environment.get(name, "0") == "0" for name in ("LOCAL_RANK", _SLURM["LOCAL_RANK"]))


def door(environment: Mapping[str, str] = os.environ) -> int | None:
    """The process of `ds-bert launch` that has started this one; None: another launcher has."""
    number = environment.get(DOOR, "")
    return int(number) if number.isdecimal() else None


def _is_task_of_srun(environment: MutableMapping[str, str]) -> bool:
    """Whether srun started this process with others.

    A batch script is one process, yet has SLURM_NTASKS and SLURM_PROCID as well; the tasks of a
    step are counted by srun alone.
    """
    return int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _translate(environment: MutableMapping[str, str]) -> None:
    _require_all(environment, _SLURM.values(), "srun")
    for name in _RANKS:
        environment[name] = environment[_SLURM[name]]
    if environment.get("CUDA_VISIBLE_DEVICES", ",").isdecimal():
        environment["LOCAL_RANK"] = "0"  # --gpus-per-task shows each task its own GPU only
    per_node = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if per_node:  # "2(x3),1": tasks of the nodes, of which the first has as many as any
        environment.setdefault("LOCAL_WORLD_SIZE", per_node[0])
    environment.setdefault("MASTER_ADDR", first_host(environment["SLURM_STEP_NODELIST"]))
    # Two steps that run at once on one node must not meet.
    number = int(environment["SLURM_JOB_ID"]) * 31 + int(environment.get("SLURM_STEP_ID", "0"))
    environment.setdefault("MASTER_PORT", str(_FIRST_PORT + number % _NUM_PORTS))


def first_host(nodes: str) -> str:
    """First name in a list of nodes as SLURM writes it: node[07-09,12],other -> node07."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])


def _require_all_or_none(environment: MutableMapping[str, str], names: tuple[str, ...]) -> None:
    if any(name in environment for name in names):
        _require_all(environment, names, "the launcher")


def _require_all(environment: MutableMapping[str, str], names, by: str) -> None:
    missing = [name for name in names if name not in environment]
    if missing:
        found = [name for name in names if name in environment]
        raise ConfigurationError(
            f"{', '.join(found)} set in the environment, {', '.join(missing)} not; expected all or "
            f"none of them, as {by} sets them"
        )


def _check_numbers(environment: MutableMapping[str, str]) -> None:
    values = [environment[name] for name in _RANKS]
    numbers = [int(value) if value.isdecimal() else -1 for value in values]
    rank, size, local = numbers
    if not (0 <= rank < size and 0 <= local < size):
        found = ", ".join(f"{name} {value}" for name, value in zip(_RANKS, values, strict=True))
        raise ConfigurationError(f"found {found}, expected RANK and LOCAL_RANK below WORLD_SIZE")
