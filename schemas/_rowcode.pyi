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
def encode_row(
    kinds: bytes,
    codecs: tuple[Callable[[bytes], bytes], ...],
    whole: bool,
    refuse: Callable[[bytes, int], NoReturn],
    message: bytes,
    position: int,
    /,
) -> tuple[bytes, tuple[int, ...], int]: ...
