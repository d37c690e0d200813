"""nvidia-smi by a stand-in, with lines as its csv has them."""

import pytest

from ds_bert.preflight import gpus

STAND_IN = """#!/bin/sh
case "$1" in
  --query-gpu=*) cat <<'GPU'
GPU-aa, 0, NVIDIA H100 80GB HBM3, 580.65.06, 81559, 4, 0
GPU-bb, 1, NVIDIA H100 80GB HBM3, 580.65.06, 81559, 30100, 2
GPU-cc, 2, NVIDIA T4, 580.65.06, 15360, 3, [N/A]
GPU
  ;;
  --query-compute-apps=*) echo 'GPU-bb, 4711, /usr/bin/python3, x, 30000' ;;
  --query-remapped-rows=*) [ -z "$OLD" ] || exit 2; echo 'GPU-aa, No, No'; echo 'GPU-bb, Yes, 1' ;;
esac
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder at the front of PATH with nvidia-smi and dmesg."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    write("nvidia-smi", STAND_IN)
    write("dmesg", "#!/bin/sh\necho '[ 5.1] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, fallen off'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


def test_what_nvidia_smi_tells(stand_in):
    found = gpus.gpus()
    good, bad, small = found["gpus"]
    assert (good["index"], good["name"]) == (0, "NVIDIA H100 80GB HBM3")
    assert good["driver"] == "580.65.06"
    assert (good["memory_total"], good["memory_used"]) == (81559, 4)
    assert good["processes"] == good["faults"] == small["faults"] == []
    assert bad["processes"] == ["/usr/bin/python3,x (4711)"]
    assert bad["faults"] == [
        "2 uncorrected ECC errors",
        "memory rows wait for a reset to be replaced",
        "memory rows could not be replaced",
    ]
    assert found["xid"] == ["Xid 79 of 0000:3b:00"]


def test_an_old_driver_does_not_know_all(stand_in, monkeypatch):
    monkeypatch.setenv("OLD", "1")
    assert gpus.gpus()["gpus"][1]["faults"] == ["2 uncorrected ECC errors"]


def test_a_log_that_may_not_be_read(stand_in):
    stand_in("dmesg", "#!/bin/sh\nexit 1\n")
    assert gpus.gpus()["xid"] is None


def test_a_driver_that_fails(stand_in, monkeypatch):
    stand_in("nvidia-smi", "#!/bin/sh\necho 'Unable to determine the device handle'; exit 15\n")
    assert gpus.gpus() == {"error": "nvidia-smi fails: Unable to determine the device handle"}
    stand_in("nvidia-smi", "#!/bin/sh\nexec sleep 9\n")
    monkeypatch.setattr(gpus, "_SECONDS", 0.2)
    assert gpus.gpus() == {"error": "nvidia-smi did not answer within 0.2 s"}


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.gpus() is None
