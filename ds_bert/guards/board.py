"""Where ranks write what the others have to know, without a collective.

A collective needs all ranks, so who waits in one hears nothing through another. All of this goes
through the store in which the ranks met, over a connection of its own: a call may block for ever
if the process that keeps the store is stopped.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch.distributed as dist

from ds_bert.guards.presence import Door, Visitor

_NOTE, _SEEN, _DONE, _DOOR = "note", "seen", "done", "door"
_PATIENCE = 5.0  # seconds to come to rank 0's door


@dataclass(frozen=True)
class Note:
    """Why the run ends: of all notes the first one counts.

    Attributes:
        rank: whose fault it is.
        message: for the user.
        exit_code: of all ranks.
        is_hang: whether each rank is to show its stacks.
    """

    rank: int
    message: str
    exit_code: int
    is_hang: bool = False


@dataclass(frozen=True)
class Beat:
    """A rank's sign of life.

    Attributes:
        name: of the rank, for a person.
        count: of the signs before.
        phase: what it is doing; a key of `watchdog.LIMITS`.
        step: optimizer step, from 1.
        moves: how often it has made progress.
        idle: seconds since it made progress.
        place: line of ds_bert where its main thread is; empty while there is progress.
        waits: whether that thread waits for other ranks.
    """

    name: str
    count: int = 0
    phase: str = "start"
    step: int = 0
    moves: int = 0
    idle: float = 0.0
    place: str = ""
    waits: bool = False


class Board:
    """The board as one rank sees it. Every method raises RuntimeError if the store is gone."""

    def __init__(self, store: dist.TCPStore, rank: int, world_size: int):
        # Calls through one connection wait for each other, and the group's may wait for long.
        self._store = dist.TCPStore(store.host, store.port, wait_for_workers=False)
        self._rank, self._world_size = rank, world_size
        self._visitor: Visitor | None = None
        if rank == 0:
            self._door = Door(world_size)
            self._store.set(_DOOR, str(self._door.port))

    def attend(self) -> None:
        """Let rank 0 see when this rank ends; without, it takes the watchdog's patience."""
        if self._rank:
            with suppress(OSError):
                port = int(self._store.get(_DOOR))
                self._visitor = Visitor(self._store.host, port, self._rank, _PATIENCE)

    def ended(self) -> set[int]:
        """On rank 0: ranks whose processes seem to have ended before they were done."""
        return self._door.ended() if self._rank == 0 else set()

    def pin(self, note: Note) -> Note:
        """Leave a note; returns the first that was left, this or another."""
        return _note(self._store.compare_set(_NOTE, "", json.dumps(asdict(note))))

    def note(self) -> Note | None:
        """The first note, if there is one."""
        return _note(self._store.get(_NOTE)) if self._store.check([_NOTE]) else None

    def saw(self) -> None:
        """This rank has seen the note and does not need the store any more."""
        self._store.add(_SEEN, 1)

    def all_others_saw(self) -> bool:
        """Whether rank 0 may end with the store."""
        return self._store.add(_SEEN, 0) >= self._world_size - 1

    def done(self) -> None:
        """This rank has come to its end and does not need the store any more."""
        self._store.add(_DONE, 1)
        if self._visitor is not None:
            self._visitor.leave()

    def all_done(self) -> bool:
        """Whether every rank has come to its end."""
        return self._store.add(_DONE, 0) >= self._world_size

    def beat(self, beat: Beat) -> None:
        """Leave a sign of life."""
        self._store.set(f"beat/{self._rank}", json.dumps(asdict(beat)))

    def beats(self, ranks: list[int]) -> dict[int, Beat]:
        """The last sign of life of each of these ranks that has given one."""
        keys = {f"beat/{rank}": rank for rank in ranks}
        if not self._store.check(list(keys)):
            keys = {key: rank for key, rank in keys.items() if self._store.check([key])}
        found = self._store.multi_get(list(keys)) if keys else []
        return {
            rank: Beat(**json.loads(text)) for rank, text in zip(keys.values(), found, strict=True)
        }


def _note(text: bytes) -> Note:
    return Note(**json.loads(text))
