# SPDX-License-Identifier: Apache-2.0
"""Ed25519 by the equations of RFC 8032 5.1, with a nonce of the signer's choice: for tests alone.

The RFC derives the nonce from key and message, so that a key has one signature of a message. A
signer who does otherwise has as many as he likes, and each of them is valid.
"""

from hashlib import sha512

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """The sum of two points, in affine coordinates (RFC 8032 5.1.4, the law of the curve)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def times(number: int, point: Point) -> Point:
    """A point added to itself so often."""
    found = NEUTRAL
    while number:
        if number & 1:
            found = add(found, point)
        point, number = add(point, point), number >> 1
    return found


def encoded(point: Point) -> bytes:
    """32 bytes (5.1.2): y, and in the highest bit whether x is odd."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def base() -> Point:
    """B (5.1): y is 4/5, and x is even."""
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x if x % 2 == 0 else P - x), y


def sign(seed: bytes, message: bytes, nonce: int) -> bytes:
    """A signature (5.1.6) by the key of a seed, with this nonce."""
    secret = int.from_bytes(sha512(seed).digest()[:32], "little")
    secret = secret & ((1 << 254) - 8) | 1 << 254  # 5.1.5
    public, shown = encoded(times(secret, base())), encoded(times(nonce, base()))
    challenge = int.from_bytes(sha512(shown + public + message).digest(), "little")
    return shown + ((nonce + challenge * secret) % ORDER).to_bytes(32, "little")
