"""The ways in which a training run is started."""

import sys
from pathlib import Path

from torture.processes import Command, free_port

LAUNCH = Path(__file__).resolve().parents[2] / "scripts/launch.py"
MODULES = {"torchrun": "torch.distributed.run", "deepspeed": "deepspeed.launcher.runner"}
RANKS_FLAG = {"torchrun": "--nproc_per_node", "deepspeed": "--num_accelerators"}


def launch(
    launcher: str,
    command: list[str],
    folder: Path,
    output: Path,
    environment: dict[str, str],
    ranks: int,
    port: int | None = None,
    flags_of: dict[int, list[str]] | None = None,
    environment_of: dict[int, dict[str, str]] | None = None,
    folder_of: dict[int, Path] | None = None,
    restarts: int = 0,
) -> list[Command]:
    """The commands that start a training run.

    Args:
        launcher: "python" (one plain process), "torchrun", "deepspeed", "launch" (scripts/launch.py
            of ours, which calls deepspeed), or "ranks": each rank started by itself, as srun does.
        command: script and flags.
        folder: to start in.
        output: file for what is printed; with "ranks" a rank's number is put behind.
        environment: variables for all.
        ranks: how many.
        port: MASTER_PORT; None: a free one.
        flags_of: more flags for some ranks (launcher "ranks").
        environment_of: more variables for some ranks (launcher "ranks").
        folder_of: another folder for some ranks (launcher "ranks").
        restarts: after failures, at most (launcher "launch").
    """
    port = port or free_port()
    before = [sys.executable]
    if launcher == "ranks":
        group = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        group = {name: str(value) for name, value in group.items()} | {"MASTER_ADDR": "127.0.0.1"}
        commands = []
        for rank in range(ranks):
            own = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                **(environment_of or {}).get(rank, {}),
            }
            arguments = [*before, *command, *(flags_of or {}).get(rank, [])]
            path = output.with_name(f"{output.name}.{rank}")
            where = (folder_of or {}).get(rank, folder)
            commands.append(Command(arguments, where, path, environment | group | own))
        return commands
    if launcher in MODULES:
        before += ["-m", MODULES[launcher], f"{RANKS_FLAG[launcher]}={ranks}"]
        before.append(f"--master_port={port}")
    if launcher == "launch":
        before += [str(LAUNCH), "--restarts", str(restarts), "--pause", "1"]
        before += [f"--num_accelerators={ranks}", f"--master_port={port}"]
    return [Command([*before, *command], folder, output, environment)]
