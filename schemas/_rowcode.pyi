from collections.abc import Callable
from typing import NoReturn

def decode_row(
    kinds: bytes,
    codecs: tuple[Callable[[bytes, int], tuple[bytes, int]], ...],
    refuse: Callable[[bytes, int], NoReturn],
    data: bytes,
    position: int,
    /,
) -> list[bytes | None]: ...
