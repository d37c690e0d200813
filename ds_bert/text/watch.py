"""Whether the text that is read is the text that was announced."""

from collections.abc import Iterator, Sequence

from ds_bert.errors import DataError, SourceUnavailable
from ds_bert.text.blocks import Block
from ds_bert.text.source import Input


class WatchedInputs:
    """Inputs that must stay as they are while a data set is made of them.

    Content is hashed once. From then on size, time of the last change and inode are compared with
    those from before the hash, after each block that is read, so that no block of other text is
    ever recorded as done.

    Attributes:
        inputs: in order.
        records: what `Input.describe` says of each.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        """Read all inputs once.

        Raises:
            SourceUnavailable: an input cannot be read.
        """
        self.inputs = inputs
        self._states = [source.state() for source in inputs]  # before they are read
        self.records = [source.describe() for source in inputs]

    def checked(self, blocks: Iterator[Block], first: int) -> Iterator[Block]:
        """Blocks, each after a look at the inputs that it is from.

        Args:
            blocks: from `read_blocks`.
            first: number of the input where they begin.

        Raises:
            DataError: an input has other content now.
            SourceUnavailable: an input is gone, or has the same content and was written meanwhile.
        """
        while True:
            try:
                block = next(blocks, None)
            except DataError:
                self._check(first, len(self.inputs))  # a change may be the cause
                raise
            self._check(first, len(self.inputs) if block is None else block.end.number + 1)
            if block is None:
                return
            first = block.end.number
            yield block

    def _check(self, first: int, end: int) -> None:
        for source, state, record in zip(
            self.inputs[first:end], self._states[first:end], self.records[first:end], strict=True
        ):
            if source.state() != state:
                raise _changed(source, record)


def _changed(source: Input, record: dict) -> DataError:
    found = source.describe()
    if found == record:
        return SourceUnavailable(f"{source} was written while it was read, expected no change")
    return DataError(
        f"{source} changed while it was read: {found['bytes']:,} bytes now, {record['bytes']:,} at "
        "the start; run the same command again when nothing writes to it"
    )
