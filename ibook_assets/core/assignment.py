"""Which variant answers whom: a salted hash of the user, so that everybody meets the same one.

A variant's users are an interval of [0, 1). Servers, the log's readers and offline analysis get the
same answer from the same salt, share and user, in any process and release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

CHAMPION: Final = "champion"
"""Variant of the model that serves everybody who is in no other one's share."""
CONTROL: Final = "control"
"""The champion while an experiment runs: what its treatment is compared with."""

_HASH_BYTES: Final = 7
_SPARE_BITS: Final = 3
_STEPS: Final = 2.0**53
"""A float holds 53 bits exactly; one more would round up to 1.0 now and then."""


def bucket(salt: str, unit_id: int | str) -> float:
    """Where `unit_id` stands in [0, 1): uniform over units, independent between salts.

    Source: the first 53 bits of BLAKE2b (RFC 7693, 7-byte digest) over `<salt>:<unit_id>`.
    """
    digest = hashlib.blake2b(f"{salt}:{unit_id}".encode(), digest_size=_HASH_BYTES).digest()
    return (int.from_bytes(digest, "big") >> _SPARE_BITS) / _STEPS


@dataclass(frozen=True, slots=True)
class Routing:
    """What a promotion record says about who is answered by which variant."""

    salt: str
    base: str
    """Variant of whoever is in nobody's share."""
    edges: tuple[tuple[str, float], ...] = ()
    """Routed variants in record order, each with the upper end of its interval of [0, 1)."""
    mirrored: tuple[tuple[str, float], ...] = ()
    """Shadow variants, each with the share of users whose orders it scores too."""

    @property
    def base_share(self) -> float:
        """Share of users that the base variant answers."""
        return max(0.0, 1.0 - self.edges[-1][1]) if self.edges else 1.0

    def assign(self, user_id: int) -> str:
        """The variant that answers `user_id`."""
        if not self.edges:
            return self.base
        place = bucket(self.salt, user_id)
        for variant, edge in self.edges:
            if place < edge:
                return variant
        return self.base

    def shadows(self, user_id: int) -> tuple[str, ...]:
        """The variants that score the orders of `user_id` without answering."""
        # A bucket of its own: who is mirrored must not depend on who is routed.
        return tuple(
            variant
            for variant, share in self.mirrored
            if bucket(f"{self.salt}:{variant}", user_id) < share
        )


def routing(
    salt: str,
    routed: Iterable[tuple[str, float]] = (),
    mirrored: Iterable[tuple[str, float]] = (),
    *,
    base: str = CHAMPION,
) -> Routing:
    """The routing of variants with their shares; routed shares add up to 1 at most.

    Shares are laid side by side from 0 in the given order: while the last one grows, nobody
    leaves it and nobody changes between the others.
    """
    named = list(routed)
    ends = accumulate(share for _, share in named)
    edges = tuple((variant, end) for (variant, _), end in zip(named, ends, strict=True))
    return Routing(salt, base, edges, tuple(mirrored))
