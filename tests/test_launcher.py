"""The environment of launchers: completed, translated or refused."""

import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.launcher import complete, first_host, place

TASK = {  # what srun gives to the last of 6 tasks on 3 nodes
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[07-09]",
}
BATCH_SCRIPT = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
LAUNCHER = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


def completed(environment):
    environment = dict(environment)
    complete(environment)
    return environment


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, (0, 1)), (TASK, (5, 6)), (LAUNCHER, (1, 2))]
)
def test_rank_and_ranks_before_they_meet(environment, expected):
    before = dict(environment)
    assert place(environment) == expected
    assert environment == before


def test_a_plain_process():
    assert completed({}) == {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }


def test_a_task_of_srun():
    found = completed(TASK)
    expected = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert {name: found[name] for name in expected} == expected
    assert found["MASTER_ADDR"] == "node07"
    assert found["MASTER_PORT"] == completed(TASK | {"SLURM_PROCID": "0"})["MASTER_PORT"]


def test_jobs_and_steps_get_ports_of_their_own():
    changes = [{}, {"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}]
    ports = {int(completed(TASK | change)["MASTER_PORT"]) for change in changes}
    assert len(ports) == 3
    assert all(15_000 <= port < 30_000 for port in ports)


def test_a_task_that_sees_one_gpu_uses_it():
    assert completed(TASK | {"CUDA_VISIBLE_DEVICES": "3"})["LOCAL_RANK"] == "0"
    assert completed(TASK | {"CUDA_VISIBLE_DEVICES": "0,1"})["LOCAL_RANK"] == "1"


@pytest.mark.parametrize("environment", [BATCH_SCRIPT, TASK | {"SLURM_STEP_NUM_TASKS": "1"}])
def test_a_plain_process_in_a_job_stays_one(environment):
    assert completed(environment)["WORLD_SIZE"] == "1"


def test_a_launcher_within_a_job_wins():
    assert completed(TASK | LAUNCHER) == TASK | LAUNCHER


def test_an_address_that_is_set_stays():
    found = completed(TASK | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "1234")


@pytest.mark.parametrize("name", sorted(TASK.keys() - {"SLURM_NTASKS", "SLURM_STEP_ID"}))
def test_a_task_without_one_of_its_variables(name):
    optional = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE")
    environment = {key: value for key, value in TASK.items() if key != name}
    if name in optional:
        complete(environment)
    else:
        with pytest.raises(ConfigurationError, match=f"{name} not; expected all or none"):
            complete(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK set in the environment, WORLD_SIZE, LOCAL_RANK not"),
        (LAUNCHER | {"RANK": "2"}, "found RANK 2, WORLD_SIZE 2, LOCAL_RANK 1, expected"),
        (LAUNCHER | {"WORLD_SIZE": "two"}, "WORLD_SIZE two"),
        (
            {name: LAUNCHER[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
            "MASTER_ADDR, MASTER_PORT not",
        ),
    ],
)
def test_half_set_variables_are_refused(environment, message):
    with pytest.raises(ConfigurationError, match=message):
        complete(dict(environment))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[07-09,12],other", "node07"),
        ("gpu-a[001,003]", "gpu-a001"),
        ("r1[2-3]n[10-11]", "r12n10"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first
