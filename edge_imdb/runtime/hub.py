"""fetch, upload, check_access, check_name: the Hugging Face Hub.

Only this module imports huggingface_hub, which tokenizers depends on. It works with versions 0.36 to 2.x.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import HubError, UsageError, first_line, raised_by
from .bundle import MANIFEST, open_bundle

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Seconds until a Hub that doesn't answer is taken for unreachable.
_TIMEOUT = 10
_ENDPOINT = "https://huggingface.co"
# A checkpoint of transformers.
CONFIG = "config.json"
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The packages whose exceptions huggingface_hub raises: requests up to version 0.36, httpx from 1.0 on.
_PACKAGES = ("huggingface_hub", "requests", "urllib3", "httpx", "httpcore", "hf_xet", "filelock")


def is_repository(model: str | os.PathLike[str] | None) -> bool:
    """Whether ``model`` is the name of a Hub repository: a str such as ``user/repo``, and no such path exists.

    >>> is_repository("user/repo"), is_repository("models"), is_repository(None)
    (True, False, False)
    """
    return isinstance(model, str) and _NAME.fullmatch(model) is not None and not Path(model).exists()


def fetch(repository: str, name: str, revision: str | None = None) -> Path:
    """Download one file of a repository to the local cache, unless it is there, and return its path.

    ``revision`` is a branch, a tag or a commit; None means the main branch. Without a network, the cached file is used.
    A file of a given commit that is in the cache needs no request. The name of the folder that holds the files is the
    commit. Raises HubError.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    with _errors(repository, name, revision):
        if revision is not None and _COMMIT.fullmatch(revision):
            # What a commit has never changes.
            with contextlib.suppress(errors.LocalEntryNotFoundError):
                return Path(hf_hub_download(repository, name, revision=revision, local_files_only=True))
        away = False
        try:
            # Can the Hub be reached? The download below would try five times, for half a minute.
            HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except Exception as error:
            if not raised_by(error, *_PACKAGES):
                raise
            away = True
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=away))


def go_offline_if_unreachable(*names: str) -> None:
    """Set HF_HUB_OFFLINE if one of ``names`` is not a local path, and the Hub can't be reached.

    Without a network, transformers and datasets retry for up to a minute before they look into their caches. With
    HF_HUB_OFFLINE they look there at once. They read the variable when they are imported, so call this function first.
    It changes nothing if the Hub gives any answer, or if an error isn't about the network.
    """
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline or all(Path(name).exists() for name in names):
        return
    from http.client import HTTPException
    from ssl import SSLError
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        urlopen(Request(os.environ.get("HF_ENDPOINT", _ENDPOINT), method="HEAD"), timeout=_TIMEOUT).close()
    except (HTTPError, HTTPException, ValueError):
        pass  # It answered, or its address is for the libraries to complain about.
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, OSError) and not isinstance(reason, SSLError):
            os.environ["HF_HUB_OFFLINE"] = "1"


def fetch_bundle(repository: str, task: str, revision: str | None = None) -> Path:
    """Download every file of a bundle, and return its folder in the local cache. Raises HubError or BundleError."""
    folder = fetch(repository, MANIFEST, revision).parent
    for name in open_bundle(folder, task).files:
        fetch(repository, name, folder.name)
    return folder


def fetch_bundle_or_checkpoint(repository: str, task: str, revision: str | None = None) -> Path:
    """``fetch_bundle`` or, for a repository without edge.json, ``fetch_checkpoint``. Raises HubError, BundleError."""
    from huggingface_hub import errors

    try:
        fetch(repository, MANIFEST, revision)
    except HubError as error:
        # LocalEntryNotFoundError is one too: offline, the cache may have the checkpoint and can't have the manifest.
        if not isinstance(error.__cause__, errors.EntryNotFoundError):
            raise
        return fetch_checkpoint(repository, revision)
    return fetch_bundle(repository, task, revision)


def fetch_checkpoint(repository: str, revision: str | None = None) -> Path:
    """The folder of a repository's checkpoint in the local cache: its JSON, safetensors and tokenizer. Raises HubError.

    Neither code nor weights of another format are downloaded, and nothing of the repository's subfolders.
    """
    from huggingface_hub import constants, errors, snapshot_download

    folder = fetch(repository, CONFIG, revision).parent
    download = functools.partial(
        snapshot_download,
        repository,
        revision=folder.name,
        allow_patterns=list(CHECKPOINT_FILES),
        ignore_patterns=["*/*"],
    )
    with _errors(repository, "the checkpoint", revision):
        try:
            return Path(str(download(local_files_only=constants.HF_HUB_OFFLINE)))
        except (errors.HfHubHTTPError, OSError) as error:
            if isinstance(error, (errors.RepositoryNotFoundError, errors.LocalEntryNotFoundError)):
                raise
            return Path(str(download(local_files_only=True)))


def check_access(repository: str) -> None:
    """Check that the Hub can be reached, and that the user is logged in and may write to ``repository``.

    Creates nothing there. Raises HubError, or UsageError if ``repository`` is not a valid name.
    """
    from huggingface_hub import HfApi

    check_name(repository)
    try:
        me = HfApi().whoami()
    except Exception as error:
        if not raised_by(error, *_PACKAGES):
            raise
        raise HubError(
            f"Nothing could be uploaded to {repository} ({first_line(error)}): log in with `hf auth login`, and check "
            "the network."
        ) from error
    names = [me["name"], *(group["name"] for group in me.get("orgs", []))]
    owner = repository.split("/")[0]
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if owner not in names:
        raise HubError(
            f"You are logged in as {me['name']}, who can't write to {repository}: upload to one of {', '.join(names)}, "
            "or log in to another account with `hf auth login`."
        )
    if role == "read":
        raise HubError(f"The token of {me['name']} is read-only: log in with `hf auth login` and one that can write.")


def upload(folder: Path, names: Sequence[str], repository: str, private: bool = False) -> str:
    """Upload files of ``folder`` in one commit, and return the address of the repository.

    A missing repository is created, and made private if ``private`` is True. The folder isn't changed. Raises HubError,
    or UsageError if ``repository`` is not a valid name.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_name(repository)
    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True, private=private)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
        api.create_commit(repository, files, commit_message="Upload by edge-imdb")
    except Exception as error:
        if not raised_by(error, *_PACKAGES):
            raise
        raise HubError(
            f"The upload to {repository} failed ({first_line(error)}); {folder} is complete: log in with `hf auth "
            f"login`, check the network, and try again with `edge-imdb push {folder} {repository}`."
        ) from error
    return str(address)


def check_name(repository: str) -> None:
    """Raise UsageError unless ``repository`` is a valid name, ``user/repo``, to upload to. Needs no network.

    The Hub's rules: letters, digits, ``-``, ``_`` and ``.``; at most 96 characters; no ``--`` and no ``..``; no ``-``
    or ``.`` at either end of a part; and no ``.git`` at the end. Source: ``huggingface_hub.utils.validate_repo_id``.

    >>> check_name("user/repo")
    >>> check_name("not a name")
    Traceback (most recent call last):
    edge_imdb.errors.UsageError: 'not a name' is not the name of a Hub repository: give user/repo.
    """
    part = r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    fits = re.fullmatch(f"{part}/{part}", repository) and len(repository) <= 96
    if not fits or "--" in repository or ".." in repository or repository.endswith(".git"):
        raise UsageError(f"{repository!r} is not the name of a Hub repository: give user/repo.")


@contextlib.contextmanager
def _errors(repository: str, name: str, revision: str | None) -> Iterator[None]:
    """Translate the exceptions of a download into HubError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{repository} is gated: ask for access on its page, and log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"There is no folder {repository} here, and no repository of that name on the Hub that you may read: check "
            "the name, or log in with `hf auth login` if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repository} has no revision {revision}: give one of its branches, tags or commits."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"There is no folder {repository} here, the Hub can't be reached to look for a repository of that name, "
            f"and its {name} is not in the cache: check the name and the network."
        ) from error
    except errors.EntryNotFoundError as error:
        what = (
            f"is not a bundle, because it has no {name}: make one with `edge-imdb export` and upload it with "
            "`edge-imdb push`"
            if name == MANIFEST
            else f"lacks {name}, which its edge.json names: upload the bundle again with `edge-imdb push`"
        )
        raise HubError(f"The repository {repository} {what}.") from error
    except Exception as error:
        if not raised_by(error, *_PACKAGES):
            raise
        raise HubError(
            f"{name} of {repository} couldn't be fetched ({first_line(error)}): check the network, the disk's space "
            "and permissions, then try again."
        ) from error
