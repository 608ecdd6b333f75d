"""Where binaries, jars and data of development servers lie: in our home, as root where servers reach it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.dev.process import Account, require_reachable
from schemas.errors import OperatorNeeded


def cache_folder(account: Account) -> Path:
    """For what can be fetched or copied again. As root it belongs to root: servers only read it."""
    if account.other:
        folder = Path("/var/cache/keepstream")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keepstream"
    return _made(folder, account)


def data_folder(account: Account) -> Path:
    """For the servers of `keepstream dev`."""
    if account.other:
        folder = Path("/var/lib/keepstream")
    else:
        folder = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "keepstream"
    return _made(folder, account)


def _made(folder: Path, account: Account) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        raise OperatorNeeded(
            f"the folder {folder} for embedded servers cannot be made: {error.strerror}",
            code="folder-unusable",
            hint="Name folders that this user can write: XDG_CACHE_HOME=… for what is fetched,"
            " XDG_DATA_HOME=… for the data of `keepstream dev`; or give the user a home.",
        ) from error
    require_reachable(folder / "inside", account)
    return folder


def filled_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, made by `fill` if it does not exist; whole or not there, also when two processes race."""
    if not folder.exists():
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
        try:
            fill(draft)
            draft.chmod(0o755)
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder
