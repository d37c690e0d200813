"""What a host tells of a run's data."""

import pytest

from ds_bert.preflight.facts import facts


@pytest.mark.parametrize("name", ["", "folder", "file"])
def test_a_place_for_copies_is_looked_at(golden_table, tmp_path, name):
    (tmp_path / "file").write_text("")
    store, local = golden_table.store, str(tmp_path / name) if name else ""
    found = facts(None, {"train_data": str(store.folder)}, 64, str(tmp_path), local)["data"]
    if name == "file":
        assert found["train_data"]["error"].startswith(f"local_data {local}: ")
    else:
        assert found["train_data"] == store.fingerprint
    assert not (tmp_path / "folder").exists()
