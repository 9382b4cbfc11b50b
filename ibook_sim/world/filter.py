"""The forward filter over each account's orders: pure arrays in, posteriors out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ibook_sim.world.fates import law_at
from ibook_sim.world.randomness import Bools, Floats, Ints, jit


class Evidence(NamedTuple):
    """What is seen of each order (n rows, sorted by account and known time)."""

    known_us: Ints
    rate: Floats
    """Shape (n, 5): density of the order under each type that may have placed it."""
    chargeback_us: Ints
    """When a chargeback is known; -1 if it never is."""
    refund_us: Ints
    charged: Floats
    refunded: Floats
    chargeback_law: Floats
    refund_law: Floats
    horizon_us: int
    """Age at which an order's fate is settled for good."""


class Links(NamedTuple):
    """From the order before (or the account's opening) to each order."""

    takeover: Floats
    """Shape (n, 2, 2), see `oracle.takeover_steps`."""
    survival: Floats
    """P(the account stays open and its owner places no other order meanwhile)."""
    abuser: Floats
    """Shape (n, 3); not used for an account's first order."""
    account: Ints
    """Position in `Priors` of the order's account."""
    first: Bools
    """Whether the order is its account's first."""


class Priors(NamedTuple):
    """Weight of each kind of account (one row an account) before its first order is seen."""

    clean: Floats
    taken: Floats
    abuser: Floats


@jit
def _fate_likelihood(evidence: Evidence, j: int, kind: int, now_us: int) -> float:
    age = now_us - evidence.known_us[j]
    share = evidence.charged[kind]
    if 0 <= evidence.chargeback_us[j] <= now_us:
        seen = share
    else:
        seen = 1.0 - share * law_at(evidence.chargeback_law, age)
    share = evidence.refunded[kind]
    if 0 <= evidence.refund_us[j] <= now_us:
        return float(seen * share)
    return float(seen * (1.0 - share * law_at(evidence.refund_law, age)))


@jit
def _arrive(state: Floats, j: int, links: Links, priors: Priors) -> None:
    """Carry `state` (clean, taken over, three abusers) to just before order `j`."""
    account = links.account[j]
    if links.first[j]:
        state[0], state[1] = priors.clean[account], priors.taken[account]
        state[2:] = priors.abuser[account]
    else:
        state[2:] *= links.abuser[j]
    step, survival = links.takeover[j], links.survival[j]
    clean, taken = state[0], state[1]
    state[0] = (clean * step[0, 0] + taken * step[1, 0]) * survival
    state[1] = (clean * step[0, 1] + taken * step[1, 1]) * survival


@jit
def _absorb(state: Floats, j: int, now_us: int, evidence: Evidence) -> None:
    """Take in order `j` and what is known of its fate at `now_us`."""
    owner = evidence.rate[j, 0] * _fate_likelihood(evidence, j, 0, now_us)
    thief = evidence.rate[j, 1] * _fate_likelihood(evidence, j, 1, now_us)
    state[0] *= owner
    state[1] *= owner + thief
    for kind in range(2, 5):
        state[kind] *= evidence.rate[j, kind] * _fate_likelihood(evidence, j, kind, now_us)
    state /= state.sum()


@jit
def _fraud_share(state: Floats, rate: Floats) -> float:
    legit = (state[0] + state[1]) * rate[0]
    fraud = state[1] * rate[1]
    for kind in range(2, 5):
        fraud += state[kind] * rate[kind]
    return float(fraud / (legit + fraud))


@jit
def posteriors(
    starts: Ints, ask: Bools, evidence: Evidence, links: Links, priors: Priors
) -> Floats:
    """P(fraud) of each order with `ask`, NaN for the others.

    Args:
        starts: first row of each account, and the number of rows at the end.
        ask: rows to answer.
        evidence: what is seen of the orders.
        links: what lies between them.
        priors: one row an account.

    Returns:
        Shape (n,). Each answer uses the fates known by that order's time, so recent orders are
        filtered again for every question; older ones are settled and filtered once.
    """
    out = np.full(ask.size, np.nan)
    settled, state = np.empty(5), np.empty(5)
    for account in range(starts.size - 1):
        done = starts[account]
        for n in range(done, starts[account + 1]):
            if not ask[n]:
                continue
            now = evidence.known_us[n]
            while done < n and evidence.known_us[done] + evidence.horizon_us <= now:
                _arrive(settled, done, links, priors)
                _absorb(settled, done, now, evidence)
                done += 1
            state[:] = settled
            for j in range(done, n):
                _arrive(state, j, links, priors)
                _absorb(state, j, now, evidence)
            _arrive(state, n, links, priors)
            out[n] = _fraud_share(state, evidence.rate[n])
    return out
