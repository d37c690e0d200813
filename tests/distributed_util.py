"""Run a function on several CPU ranks (gloo), or join a group of one in this process."""

import functools
import logging
import multiprocessing
import os
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

# Imported once by the fork server instead of once per rank.
PRELOAD = ["deepspeed", "transformers.models.bert.modeling_bert", "ds_bert.training.run"]


def join_group(rank: int = 0, world_size: int = 1, port: int = 0) -> None:
    """Become a rank of a gloo group through DeepSpeed; port 0 serves a group of one."""
    os.environ.update(
        DS_ACCELERATOR="cpu",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)  # threads of several processes on few cores wait for each other
    warnings.simplefilter("ignore", FutureWarning)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    __compatible_ops__["deepspeed_shm_comm"] = False  # compiles for a minute, training needs it not
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(
            dist_backend="gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=60),
        )


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120.0
) -> list[Any]:
    """Call a module-level function with `args` on every rank and return the ranks' results.

    Results travel through torch.save, so tensors and plain containers are fine. The first rank
    that fails or the timeout (in seconds) ends all ranks and raises RuntimeError with the rank's
    traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        start = functools.partial(context.Process, target=_run_rank, daemon=True)
        port = free_port()
        processes = [
            start(args=(function, rank, world_size, port, folder, args))
            for rank in range(world_size)
        ]
        try:
            for process in processes:
                process.start()
            _wait(processes, Path(folder), time.monotonic() + timeout)
        finally:
            _end(processes)
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world_size)]


def _run_rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, folder: str, args: tuple
) -> None:
    try:
        join_group(rank, world_size, port)
        torch.save(function(*args), Path(folder, f"{rank}.pt"))
        torch.distributed.barrier()  # rank 0 holds the store: it must not leave first
        torch.distributed.destroy_process_group()
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)


def _wait(processes: list, folder: Path, deadline: float) -> None:
    while any(process.exitcode != 0 for process in processes):
        codes = {rank: process.exitcode for rank, process in enumerate(processes)}
        if any(codes.values()):
            raise RuntimeError(f"a rank failed (exit codes {codes}):\n{_first_error(folder)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(processes)} ranks did not finish in time")
        time.sleep(0.02)


def _first_error(folder: Path) -> str:
    """The other ranks' errors are mostly broken connections that follow from the first."""
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    return errors[0].read_text() if errors else "no traceback"


def _end(processes: list) -> None:
    for process in processes:
        if process.pid is not None and process.exitcode is None:
            process.kill()
    for process in processes:
        if process.pid is not None:
            process.join()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
