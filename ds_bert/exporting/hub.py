"""A model folder to the Hugging Face hub: the newest on main, and a branch for each step."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from ds_bert.errors import ConfigurationError

# What an earlier push may have had and this one lacks; files of others in the repository stay.
_OURS = ["*.safetensors*", "*.onnx*", "modules.json", "1_Pooling/*"]
_OURS += ["sentence_bert_config.json", "losses.svg"]
_PROBLEMS = (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError, ValueError)


def require_access(repo: str) -> None:
    """Ask the hub who we are, before the work.

    Raises:
        ConfigurationError: no token, or the hub is not in reach.
    """
    try:
        HfApi().whoami()
    except _PROBLEMS as error:
        raise ConfigurationError(
            f"--push_to_hub {repo}: found no access ({_reason(error)}); log in with `hf auth "
            "login` or set HF_TOKEN to a token that may write"
        ) from None


def push(folder: Path, repo: str, step: int | None, public: bool) -> list[str]:
    """Upload a model folder.

    Args:
        folder: a finished export.
        repo: OWNER/NAME; made if it is not there.
        step: its branch `step_N` gets the model as well; None: main alone.
        public: whether a new repository can be seen by all.

    Returns:
        the revisions that have it now.

    Raises:
        ConfigurationError: what the hub said; the folder is complete all the same.
    """
    api, about = HfApi(), "ds_bert export" if step is None else f"ds_bert export, step {step:,}"
    revisions = ["main"] if step is None else ["main", f"step_{step}"]
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        for revision in revisions:
            if revision != "main":
                api.create_branch(repo, branch=revision, exist_ok=True)
            api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                revision=revision,
                commit_message=about,
                delete_patterns=_OURS,
            )
    except _PROBLEMS as error:
        raise ConfigurationError(
            f"--push_to_hub {repo}: failed ({_reason(error)}); {folder} is complete, upload it "
            f"with: hf upload {repo} {folder}"
        ) from None
    return revisions


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
