"""Ids of memories: random, short, and fit to be read aloud."""

import secrets

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""No i, l, o, u."""
ID_LENGTH = 12
"""60 random bits."""
_LETTERS = (8 * ID_ALPHABET).encode()  # of each byte, as `bytes.translate` takes them


def new_ids(count: int) -> list[str]:
    letters = secrets.token_bytes(ID_LENGTH * count).translate(_LETTERS).decode()
    return [letters[i : i + ID_LENGTH] for i in range(0, len(letters), ID_LENGTH)]
