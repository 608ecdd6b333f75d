from collections.abc import Callable
from typing import Any

from schemas.change import Change, Operation

def encode_row_change(change: Change, /) -> bytes: ...
def decode_changes(
    block: bytes,
    change_type: type[Change],
    operations: tuple[Operation, ...],
    read_payload: Callable[[bytes, int], tuple[Any, int]],
    /,
) -> list[Change]: ...
