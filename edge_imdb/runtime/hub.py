"""fetch, upload, check_access: the Hugging Face Hub. Nothing else imports huggingface_hub, which tokenizers brings.

Written for huggingface_hub 0.36 to 2.x.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import HubError, UsageError, first_line
from .bundle import MANIFEST, open_bundle

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Seconds until a Hub that doesn't answer is taken for unreachable.
_TIMEOUT = 10
_ENDPOINT = "https://huggingface.co"
# A checkpoint of transformers.
CONFIG = "config.json"
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(model: str | os.PathLike[str] | None) -> bool:
    """Whether ``model`` names a repository, such as ``user/repo``: it is a str, and no folder of that name exists."""
    return isinstance(model, str) and _NAME.fullmatch(model) is not None and not Path(model).exists()


def fetch(repository: str, name: str, revision: str | None = None) -> Path:
    """The path of one file of a repository in the local cache, downloaded if it isn't there. Raises HubError.

    ``revision`` is a branch, a tag or a commit, None the main branch. Without a network the cache is used as it is; a
    file of a commit that is in the cache needs no request. The folder of a repository's files has their commit's name.
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
        except Exception:
            away = True
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=away))


def go_offline_if_unreachable(*names: str) -> None:
    """Set HF_HUB_OFFLINE if one of ``names`` is no path here, so must be a Hub id, and the Hub can't be reached.

    Without a network, transformers and datasets try again and again, for up to a minute, before they look into their
    caches. Told that they are offline, they look there at once. They read the variable when they are imported, so call
    this before that. Any answer from the Hub, and any error that is not about the network, leaves things as they are.
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
    """The folder of a repository's bundle in the local cache, with every file of it. Raises HubError, BundleError."""
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
    """Raise HubError unless the Hub can be reached and the user is logged in and may write to ``repository``.

    Nothing is created there. Raises UsageError if ``repository`` is not ``user/repo``.
    """
    from huggingface_hub import HfApi

    _check_name(repository)
    try:
        me = HfApi().whoami()
    except Exception as error:
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
    """Upload files of ``folder`` in one commit and return the repository's address. It is created if it is missing.

    ``private`` applies to a new repository. The folder stays as it is. Raises HubError, or UsageError if ``repository``
    is not ``user/repo``.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check_name(repository)
    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True, private=private)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
        api.create_commit(repository, files, commit_message="Upload by edge-imdb")
    except Exception as error:
        raise HubError(
            f"The upload to {repository} failed ({first_line(error)}); {folder} is complete: log in with `hf auth "
            f"login`, check the network, and try again with `edge-imdb push {folder} {repository}`."
        ) from error
    return str(address)


def _check_name(repository: str) -> None:
    if _NAME.fullmatch(repository) is None:
        raise UsageError(f"{repository!r} is not the name of a Hub repository: give user/repo.")


@contextlib.contextmanager
def _errors(repository: str, name: str, revision: str | None) -> Iterator[None]:
    """Each way in which a download fails as one sentence."""
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
        raise HubError(
            f"{name} of {repository} couldn't be fetched ({first_line(error)}): check the network, the disk's space "
            "and permissions, then try again."
        ) from error
