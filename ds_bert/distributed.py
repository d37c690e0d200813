"""Rank facts, the process group, and what ranks agree on.

Works the same under the `deepspeed` launcher, torchrun, srun and as one plain process.
"""

import ctypes
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ds_bert import launcher
from ds_bert.errors import ConfigurationError, RankFailed, UserError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is first imported

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# torch's settings of its GPU memory; the first name is today's (since torch 2.9), one is read.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_START = timedelta(minutes=30)  # within which a collective ends
_COME = 600  # seconds within which all ranks come
_FOUND = timedelta(seconds=30)  # within which a store that answers is known to be our own
_met: dist.TCPStore | None = None


def rank() -> int:
    """This process's rank, from the launcher's environment; 0 for a plain process."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of ranks, from the launcher's environment; 1 for a plain process."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_on_this_machine() -> int:
    """Number of ranks that share this machine's cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))


def local_device() -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def log(message: str) -> None:
    """Print a line on rank 0 (through tqdm, so that a progress bar is not torn)."""
    if rank() == 0:
        from tqdm import tqdm

        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()


def setup(seconds_to_come: int = _COME) -> torch.device:
    """Join the process group through DeepSpeed and return this rank's device.

    Args:
        seconds_to_come: how long to wait for the other ranks; 0: half an hour.

    Raises:
        ConfigurationError: the launcher's variables contradict, or another run has its port.
        RankFailed: a rank did not come.
    """
    _quiet()
    launcher.complete()
    device = local_device()
    if device.type == "cuda":
        _let_segments_grow()
        torch.cuda.set_device(device)
    else:
        _use_own_share_of_cores()
        _keep_freed_memory()
    _init_deepspeed(device, timedelta(seconds=seconds_to_come) or _START)
    return device


def _quiet() -> None:
    """Keep what other packages tell about their inner workings, if no error, out of the log."""
    from transformers.utils.logging import disable_progress_bar

    logging.disable(logging.WARNING)  # DeepSpeed sets a level of its own when it is imported
    disable_progress_bar()
    if not sys.warnoptions:  # python -W, PYTHONWARNINGS
        warnings.simplefilter("ignore")


def _let_segments_grow() -> None:
    """Let torch's GPU memory grow in place, unless the user has settings of their own.

    Unpadded batches differ in size, so blocks that one leaves seldom fit the next, and fragments
    pile up. torch reads the variable at its first allocation.
    """
    if not any(name in os.environ for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"


def _use_own_share_of_cores() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // ranks_on_this_machine()))


def _keep_freed_memory() -> None:
    """Let malloc reuse large blocks; by default each temporary tensor costs its page faults again.

    The numbers are those of glibc's malloc.h; other C libraries have no mallopt or ignore them.
    torch then asks for huge pages, aligned to 2 MB: blocks of other sizes do not fit into the gaps
    that freed ones leave, and fault again (torch reads the variable at its first allocation).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def _init_deepspeed(device: torch.device, patience: timedelta) -> None:
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__

    if device.type == "cpu":
        # A CPU without such instructions is slow in fp16, yet right: enough to try a recipe.
        get_accelerator().is_fp16_supported = lambda: True
        # Used by inference only, yet init_distributed would compile it for a minute or more.
        __compatible_ops__["deepspeed_shm_comm"] = False
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world_size() > 1:  # DeepSpeed takes over a group that is there
        store = dist.PrefixStore("group", _meet(patience))
        dist.init_process_group(
            backend, timeout=_START, world_size=world_size(), rank=rank(), store=store
        )
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=_START, verbose=False)


def _meet(patience: timedelta) -> dist.TCPStore:
    """Find the other ranks of this run, and nobody else, at MASTER_ADDR:MASTER_PORT.

    torch alone would let the ranks of a second run wait at the store of the first.

    Raises:
        ConfigurationError: the port belongs to somebody else.
        RankFailed: a rank did not come.
    """
    global _met
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    taken = ConfigurationError(
        f"MASTER_PORT {port} on {address}: found in use, by another run perhaps; choose another "
        f"one, such as deepspeed --master_port {port + 1}"
    )
    is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = rank() == 0 and not is_torchruns
    try:
        _met = dist.TCPStore(address, port, world_size(), keeps, patience, wait_for_workers=False)
        if rank() == 0:
            _met.set("world_size", str(world_size()))
        _met.wait(["world_size"], patience if is_torchruns else _FOUND)
    except dist.DistStoreError:
        raise taken from None
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            raise taken from None
        raise RankFailed(f"rank 0 did not come to {address}:{port}: {error}") from None
    is_first = _met.add(f"rank/{rank()}", 1) == 1
    if not is_first or int(_met.get("world_size")) != world_size():
        raise taken
    _wait_for_all(_met, patience)
    _met.set_timeout(_START)
    return _met


def _wait_for_all(store: dist.Store, patience: timedelta) -> None:
    keys = {f"rank/{other}": f"rank {other}" for other in range(world_size())}
    try:
        store.wait(list(keys), patience)
    except dist.DistStoreError:
        missing = ", ".join(name for key, name in keys.items() if not store.check([key]))
        raise RankFailed(
            f"{missing} did not come to {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"within {patience}; look for their errors, and whether their hosts reach that address"
        ) from None


def store() -> dist.TCPStore | None:
    """Where the ranks met: for what they tell each other without a collective; None for one."""
    return _met


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether there is more than one rank to talk to."""
    return dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    """Wait for all ranks."""
    if is_distributed():
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """All-reduce (sum) in place; returns `values`."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def name() -> str:
    """This rank for a person: "rank 3 (its host)"."""
    return f"rank {rank()} ({socket.gethostname()})"


def on_rank_0(function: Callable[[], Any]) -> Any:
    """Call a function on rank 0; every rank gets its result, or raises its error.

    Raises:
        UserError, OSError: what the function has raised; anything else is raised on rank 0 alone.
    """
    value, error = None, None
    if rank() == 0:
        try:
            value = function()
        except (UserError, OSError) as raised:
            error = raised
    value, error = from_rank_0((value, error))
    if error is not None:
        raise error
    return value


def from_rank_0(value: Any) -> Any:
    """Rank 0's `value` on every rank (a small picklable object)."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every rank's `value` (a small picklable object) on every rank, by rank."""
    if not is_distributed():
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone
