from collections.abc import Callable
from typing import Any

from schemas.change import Change, Operation
from schemas.frame import Transaction

def encode_row_change(change: Change, /) -> bytes: ...
def decode_changes(
    block: bytes,
    change_type: type[Change],
    operations: tuple[Operation, ...],
    read_payload: Callable[[bytes, int], tuple[Any, int]],
    /,
) -> list[Change]: ...
def decode_transactions(
    record: bytes, position: int, count: int, transaction_type: type[Transaction], /
) -> tuple[list[Transaction], int]: ...
