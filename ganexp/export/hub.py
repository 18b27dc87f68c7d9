"""Exported folders to and from the Hugging Face Hub, through huggingface_hub."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from ganexp.cli.build import one_line
from ganexp.cli.messages import ConfigError
from ganexp.export.folder import files_of
from ganexp.runs import CONFIG, WEIGHTS

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_name(repo: str, key: str) -> None:
    """Raises ValueError for what is no USER/NAME, and without huggingface_hub."""
    if not NAME.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(f"{key}: must be USER/NAME of a model on the Hub, got {repo[:100]!r}")
    if find_spec("huggingface_hub") is None:
        raise ValueError(f'{key}: needs huggingface_hub: pip install "ganexp[hub]"')


def push_to_hub(
    folder: str | os.PathLike[str],
    repo: str,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Send an exported folder to the repository USER/NAME, made if it is not there; the address of the commit.

    `token`: null takes the one that `hf auth login` has kept, or HF_TOKEN. `endpoint`: another server than the Hub's, null for
    HF_ENDPOINT or the Hub. Raises ValueError for a name that cannot be or a folder that is not an exported one, and ConfigError
    where the server cannot be reached or refuses: it says what would have been sent.
    """
    check_name(repo, "repo")
    folder = Path(folder)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"folder: {folder} has no {WEIGHTS}; task=export writes such a folder")
    from huggingface_hub import CommitOperationAdd, HfApi

    files = list(files_of(folder))
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name, _ in files]
        done = api.create_commit(repo, added, commit_message="Exported by ganexp")
    except Exception as error:  # of the network, of the server, of its client
        sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in files)
        raise ConfigError(
            f"push_to: {repo} was not sent to {api.endpoint}: {reason(error)}; would have sent from {folder}: {sizes}"
        ) from error
    return str(done.commit_url)


def download(repo: str, revision: str | None = None, token: str | None = None, endpoint: str | None = None) -> Path:
    """The folder of an exported model USER/NAME in huggingface_hub's cache, fetched if it is not there; weights and config only.

    `revision`: a branch, tag or commit. Raises ValueError for a name that cannot be, ConfigError where it cannot be fetched.
    """
    check_name(repo, "repo")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, token=token, endpoint=endpoint, allow_patterns=[WEIGHTS, CONFIG]))
    except Exception as error:
        raise ConfigError(f"from_hub: {repo} cannot be fetched: {reason(error)}") from error


def reason(error: Exception) -> str:
    """A client's error, which may have many lines."""
    return f"{type(error).__name__}: {one_line(error)[:200]}"
