"""The Hugging Face hub: what a user can mend when it refuses is told in one line."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.run.card import CARD_FILE, is_untouched


def upload(folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """A folder as a model repository, made if need be. Returns its address.

    A card that is there and that somebody has edited stays. Raises UserError for a name that is none, without the
    permission to write, and where the hub cannot be reached.
    """
    with _explained(repo_id):
        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        keeps = _has_edited_card(api, repo_id)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            commit_message="Mask network",
            ignore_patterns=[CARD_FILE] if keeps else None,
        )
    return str(url)


def download(repo_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The files of a repository that match. Raises UserError as `upload`, and where it is not there."""
    with _explained(repo_id):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))


def _has_edited_card(api: HfApi, repo_id: str) -> bool:
    try:
        card = Path(api.hf_hub_download(repo_id, CARD_FILE))
    except RemoteEntryNotFoundError:  # not the local one: that nothing was heard of a card is no leave to replace it
        return False
    return not is_untouched(card.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    name = printable(repo_id)
    try:
        yield
    except HFValidationError as error:
        raise UserError(f'{name}: is no name of a hub repository, expected one like "you/name"') from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"{name}: no token: log in with `hf auth login`, or give one with token=…") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{name}: the hub repository has no such branch, tag or commit") from error
    except HfHubHTTPError as error:
        raise UserError(f"{name}: {_refusal(error)}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise UserError(f"{name}: the hub cannot be reached: offline, or HF_HUB_OFFLINE is set") from error
    except UserError:
        raise
    except Exception as error:  # whatever networks and disks bring about; versions of the client have other kinds
        raise UserError(f"{name}: cannot be exchanged with the hub: {reason(error)}") from error


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"the hub does not permit this (HTTP {status}): log in with `hf auth login`, or give a token that may "
            "write there; the name before the slash must be yours or your organisation's"
        )
    if status == 404:
        return "the hub has no such repository, or it is a private one that your token does not open"
    return f"the hub refuses: {reason(error)}"
