"""A rehearsal of a run's start, by every rank: meet, add up, measure. For `ds_bert.preflight`.

python -m ds_bert.guards.all_reduce

Tells after each stage how far it came, one JSON line each.
"""

import json
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist

STAGES = ("none", "started", "came", "met", "done")
_BYTES = {"cuda": 1 << 28, "cpu": 1 << 24}
_TIMES = 3


def say(stage: str, **more: object) -> None:
    """Tell the one who has started this process."""
    print(json.dumps({"stage": stage, **more}), flush=True)


def main() -> None:
    """Take part as the rank that the environment names."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    patience = timedelta(seconds=float(os.environ["DS_BERT_SECONDS"]))
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind, int(os.environ["LOCAL_RANK"]) if kind == "cuda" else 0)
    say("started", device=torch.cuda.get_device_name(device) if kind == "cuda" else "cpu")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world_size, rank == 0, patience, wait_for_workers=False)
    store.set(f"came/{rank}", "")
    say("came")
    store.wait([f"came/{other}" for other in range(world_size)], patience)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" else "gloo"
    group = dist.PrefixStore("group", store)
    dist.init_process_group(
        backend, store=group, rank=rank, world_size=world_size, timeout=patience
    )
    total = torch.tensor(float(rank), device=device)
    dist.all_reduce(total)
    if total.item() != world_size * (world_size - 1) / 2:
        raise SystemExit(f"the sum over ranks is {total.item()}: wrong")
    say("met", backend=backend)
    say("done", **measure(device, world_size))
    store.add("done", 1)
    while rank == 0 and store.add("done", 0) < world_size:  # it keeps the store for the others
        time.sleep(0.01)
    os._exit(0)  # nothing is left to do, and leaving a group may wait for others


def measure(device: torch.device, world_size: int) -> dict[str, float]:
    """Seconds of an all-reduce of "bytes", and its bus bandwidth in bytes per second.

    Each rank has to send and get 2 (n - 1) / n times the bytes, whatever the algorithm.
    Source: NVIDIA, nccl-tests, PERFORMANCE.md.
    """
    values = torch.ones(_BYTES[device.type] // 4, device=device)
    dist.all_reduce(values)  # the first one makes connections
    seconds = min(_seconds(values) for _ in range(_TIMES))
    num_bytes = values.numel() * values.element_size()
    bandwidth = 2 * (world_size - 1) / world_size * num_bytes / seconds
    return {"bytes": num_bytes, "seconds": seconds, "bandwidth": bandwidth}


def _seconds(values: torch.Tensor) -> float:
    dist.barrier()
    begin = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
