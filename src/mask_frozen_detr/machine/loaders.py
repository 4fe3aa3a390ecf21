"""Loading processes that are killed: mostly by a system that has no memory left.

PyTorch tells of it in the main process wherever that is just then, and not of what the process was at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch.utils.data import Dataset, get_worker_info

from mask_frozen_detr.errors import UserError, printable, reason, shorten

Item = TypeVar("Item")
Key = int | tuple[int, int]  # of an item: its number, which may be the first of two


class Watched(Dataset[Item], Generic[Item]):
    """A data set of pictures that notes which one each loading process is at.

    paths: of the pictures, by number. workers: how many processes there are.
    """

    def __init__(self, dataset: Dataset[Item], paths: Sequence[Path], workers: int):
        self.dataset, self.paths = dataset, paths
        self.at = torch.full((max(1, workers),), -1).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        process = get_worker_info()
        if process is not None:
            self.at[process.id] = key if isinstance(key, int) else key[0]
        return self.dataset[key]

    @contextmanager
    def told(self, remedy: str) -> Iterator[None]:
        """Within it the death of a loading process is a UserError that names the pictures. remedy: what to do."""
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            if not is_death(error):
                raise
            at = [printable(str(self.paths[number])) for number in self.at.tolist() if number >= 0]
            raise UserError(
                f"{shorten(at) or 'before the first picture'}: a process that loads pictures was killed while it was "
                f"there ({reason(error)}); mostly the machine has no memory left: {remedy}"
            ) from error


def is_death(error: BaseException) -> bool:
    """Whether it says that a loading process is gone: PyTorch's text, or what a connection to it ends with."""
    if isinstance(error, FileNotFoundError):  # a socket's, which is gone with the process, has no name
        return error.filename is None
    gone = isinstance(error, ConnectionError | EOFError) and not isinstance(error, BrokenPipeError)
    return gone or (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"))
