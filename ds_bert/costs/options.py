"""What a user asks about a run beforehand: flags that are no part of the run's recipe."""

from dataclasses import dataclass

from ds_bert.config import option
from ds_bert.errors import ConfigurationError, require

_GROUP = "before a run (no part of a recipe)"
_OF_DRY_RUNS = ("probe_steps", "on", "price_per_hour", "cost_file")


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Flags of training that go neither into recipes nor into checkpoints.

    Raises:
        ConfigurationError: a value has no meaning or contradicts another.
    """

    probe_steps: int = option(
        0, "with dry_run: time so many steps here; default {default}", group=_GROUP, metavar="N"
    )
    on: str | None = option(
        None,
        "with dry_run: the cost on these GPUs, such as 8xH100",
        group=_GROUP,
        metavar="GPUS",
    )
    mfu: float | None = option(
        None, "with on: the share of the peak that training reaches", group=_GROUP, metavar="SHARE"
    )
    price_per_hour: float | None = option(
        None, "with dry_run: of one GPU, or machine without", group=_GROUP, metavar="PRICE"
    )
    cost_file: str | None = option(
        None, "with dry_run: write work and speed as JSON, too", group=_GROUP, metavar="FILE"
    )
    overfit: int = option(
        0,
        "in place of the run: learn N of its sequences by heart, to see that all is wired right",
        group=_GROUP,
        metavar="N",
    )

    def __post_init__(self):
        for name in ("probe_steps", "overfit"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.mfu is None or 0 < self.mfu <= 1, "mfu", self.mfu, "above 0, at most 1")
        price = self.price_per_hour
        require(price is None or 0 <= price < float("inf"), "price_per_hour", price, "0 or more")
        if self.on and self.probe_steps:
            raise ConfigurationError(
                f"--probe_steps measures this machine, --on {self.on} names another one; give one"
            )
        if self.mfu is not None and self.on is None:
            raise ConfigurationError("--mfu is a share of a GPU's peak; name it, as in --on 8xH100")

    def check(self, dry_run: bool) -> None:
        """Refuse questions that nobody would answer.

        Raises:
            ConfigurationError: they are about a dry run, and this is none.
        """
        asked = {name: getattr(self, name) for name in _OF_DRY_RUNS}
        given = [f"--{name}" for name, value in asked.items() if value]
        if given and not dry_run:
            raise ConfigurationError(f"{given[0]} without --dry_run; add it")
        if self.overfit and dry_run:
            raise ConfigurationError("--overfit trains, --dry_run does not; give one of them")
