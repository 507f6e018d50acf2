"""Folders to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

# Only these travel: nothing that a loader would have to unpickle or run.
ALLOWED = ["*.safetensors", "*.json", "*.md", "*.txt"]


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    token: str | None = None,
    private: bool = True,
    message: str = "Weights, config and model card",
) -> str:
    """Upload an exported folder, or a run folder, to the model repository `repo_id`.

    Args:
        token: None = the one `hf auth login` saved. private: of a repository that is made here;
            an existing one keeps its visibility.

    Returns: the address of the commit.

    Raises:
        FileNotFoundError: no folder, or no config.json, weights or card in it. ValueError: not
            USER/NAME. OSError: the hub refused, or cannot be reached.
    """
    folder = Path(folder)
    if repo_id.count("/") != 1 or not all(repo_id.split("/")):
        raise ValueError(f"repository {repo_id!r}: write USER/NAME")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    configs = [p.name for p in folder.glob("*config.json")]
    if not configs or not list(folder.glob("*.safetensors")) or not (folder / "README.md").exists():
        raise FileNotFoundError(
            f"{folder} is not complete: it needs a config, .safetensors and README.md; write it "
            "with tools/convert.py"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder.resolve()),
            repo_type="model",
            commit_message=message,
            allow_patterns=ALLOWED,
        )
    except Exception as error:  # the hub's client has a dozen types, most of them no OSError
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"the hub did not take {repo_id} ({type(error).__name__}: {reason}); log in with "
            "`hf auth login`"
        ) from None
    return str(getattr(commit, "commit_url", commit))
