"""What has been done in an output folder: of each stage what it was given, and what came out."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ds_bert import files
from ds_bert.errors import ConfigurationError

STATE, PLAN = "pretrain.json", "plan.json"
_VERSION = 1
_FIRST = {PLAN, f".{PLAN}.tmp", f".{STATE}.tmp"}  # may be there before the first record


@dataclass
class Record:
    """A stage that was begun.

    Attributes:
        options: that decide what comes out.
        inputs: what it reads, by name: hashes.
        product: what came out, as hashes; None: not finished.
        seconds: that it took, interruptions left out.
        facts: what was found on the way, such as the steps of a phase.
    """

    options: dict[str, Any]
    inputs: dict[str, Any]
    product: Any = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return self.product is not None


@dataclass
class State:
    """The records of a folder, by stage.

    Attributes:
        folder: of the road.
        stages: their records.
        texts: fingerprints of files, by their state.
        restarted: the stage from which all is being made again, until that is done.
    """

    folder: Path
    stages: dict[str, Record] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    restarted: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "State":
        """That of a folder; of one that is empty, or not there, an empty one.

        Raises:
            ConfigurationError: the folder holds something else, or a record that is damaged.
        """
        path = folder / STATE
        if not path.exists():
            if folder.is_dir() and any(one.name not in _FIRST for one in folder.iterdir()):
                raise ConfigurationError(
                    f"output_dir {folder}: found files but no {STATE}, expected a new folder or "
                    "one of an earlier call; choose another output_dir"
                )
            return cls(folder)
        try:
            record = files.parse_json(path.read_text(encoding="utf-8"))
            stages = {name: Record(**values) for name, values in record["stages"].items()}
            if record["version"] != _VERSION:
                raise ValueError(f"version {record['version']}")
            return cls(folder, stages, record["texts"], record.get("restarted"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path}: found no record of this version ({error}), expected what ds-bert "
                "pretrain wrote; put it back, or choose another output_dir"
            ) from None

    def write(self) -> None:
        """Write all, whole or not at all.

        Raises:
            ConfigurationError: the disk is full, or the folder gone.
        """
        stages = {name: asdict(record) for name, record in self.stages.items()}
        record = {"version": _VERSION, "stages": stages, "texts": self.texts}
        record["restarted"] = self.restarted
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_text(self.folder / STATE, files.as_json(record, indent=1) + "\n")
        except OSError as error:
            raise ConfigurationError(
                f"{self.folder / STATE}: cannot be written ({error.strerror}); make room and call "
                "again, it goes on where it was"
            ) from None

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(record.seconds for record in self.stages.values())


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, in words, by the path of each."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            path = f"{name}.{key}" if name else key
            found += differences(before.get(key), now.get(key), path)
        return found
    return [f"{name} was {_short(before)}, is {_short(now)}"]


def _short(value: Any) -> str:
    text = "not given" if value is None else files.as_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
