"""Which trackers a run reports to."""

from importlib.util import find_spec

from ds_bert.errors import ConfigurationError, require

DEFAULT = "tensorboard"  # where it is installed
# What to install for each; the module that is imported has the tracker's name.
PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}


def resolve(report_to: str) -> list[str]:
    """Names of the trackers that a value of `report_to` stands for.

    Args:
        report_to: "auto" (the default one, if it is installed), "all" that are installed, "none",
            or names with commas between them.

    Raises:
        ConfigurationError: a name that is not known, or not installed.
    """
    names = [name.strip() for name in report_to.split(",")]
    if names == ["none"]:
        return []
    if names in (["auto"], ["all"]):
        wanted = [DEFAULT] if names == ["auto"] else PACKAGES
        return [name for name in wanted if is_installed(name)]
    for name in names:
        expected = f"auto, all, none, or of {', '.join(PACKAGES)} those you want, with commas"
        require(name in PACKAGES, "report_to", report_to, expected)
        if not is_installed(name):
            raise ConfigurationError(
                f"report_to {report_to}: {name} is not installed; pip install {PACKAGES[name]}, or "
                "--report_to none"
            )
    return list(dict.fromkeys(names))


def is_installed(name: str) -> bool:
    """Whether a tracker's package can be imported.

    A folder without code, as wandb makes one of its own name in the working folder, is none.
    """
    spec = find_spec(name)
    return spec is not None and spec.origin is not None
