"""Claims: one process at a time, answers remembered for a day, the dead hold nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ibook_assets.core.errors import IntegrityError
from ibook_assets.stores.claims import TTL_US, Claims, Found
from ibook_assets.stores.outbox import open_environment

ROOT = Path(__file__).parents[2]
NOW_US = 10**15

CLAIMER = """
import sys
from pathlib import Path
from ibook_assets.stores.claims import Claims
from ibook_assets.stores.outbox import open_environment

claims = Claims(open_environment(Path(sys.argv[1]), 2**24))
print(claims.claim("k", "f", now_us=10**15).verdict, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(open_environment(tmp_path, 2**24))


def test_a_key_is_claimed_answered_and_remembered(claims: Claims) -> None:
    assert claims.claim("k", "f", now_us=NOW_US) == Found("claimed")
    assert claims.claim("k", "f", now_us=NOW_US).verdict == "in_flight"
    claims.answer("k", "f", b"yes", now_us=NOW_US + 5)
    assert claims.claim("k", "f", now_us=NOW_US + 9) == Found("answered", b"yes")
    assert claims.claim("k", "g", now_us=NOW_US + 9) == Found("other_request")


def test_a_released_key_is_free(claims: Claims) -> None:
    claims.claim("k", "f", now_us=NOW_US)
    claims.release("k")
    claims.release("never claimed")
    assert claims.claim("k", "g", now_us=NOW_US).verdict == "claimed"


def test_answers_are_forgotten_after_a_day(claims: Claims) -> None:
    for number in range(10):
        claims.claim(f"k{number}", "f", now_us=NOW_US)
        claims.answer(f"k{number}", "f", b"yes", now_us=NOW_US)
    assert claims.claim("k9", "f", now_us=NOW_US + TTL_US).verdict == "answered"
    later = NOW_US + TTL_US + 1
    assert claims.claim("k9", "g", now_us=later).verdict == "claimed"
    for _ in range(5):
        claims.claim("k9", "g", now_us=later)
    with claims._environment.reading() as transaction:
        left = (
            transaction.stat(claims._claims)["entries"],
            transaction.stat(claims._expiry)["entries"],
        )
    assert left == (1, 1), "what is over takes no room"


def test_a_claim_of_a_killed_process_is_free_and_of_a_living_one_is_not(
    tmp_path: Path, claims: Claims
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as claimer:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "claimed\n"
        assert claims.claim("k", "f", now_us=NOW_US).verdict == "in_flight"
        claimer.kill()
        claimer.wait()
    assert claims.claim("k", "f", now_us=NOW_US).verdict == "claimed"


def test_a_damaged_claim_is_named(tmp_path: Path, claims: Claims) -> None:
    environment = open_environment(tmp_path, 2**24)
    with environment.writing() as transaction:
        transaction.put(b"k", b"nonsense", db=environment.database(b"claims"))
    with pytest.raises(IntegrityError, match="the idempotency key k"):
        claims.claim("k", "f", now_us=NOW_US)


def test_a_machine_that_crashed_forgets_its_claims_and_a_restart_does_not(tmp_path: Path) -> None:
    started = (
        "from pathlib import Path; import sys; from ibook_assets.stores import boots, outbox\n"
    )
    claim = (
        "from ibook_assets.stores.claims import Claims\n"
        "boots._BOOT_ID = Path(sys.argv[2])\n"
        "store = outbox.open_environment(Path(sys.argv[1]), 2**24, durable=False)\n"
        "claims = Claims(store)\n"
        "found = claims.claim('k', 'f', now_us=10**15).verdict\n"
        "claims.answer('k', 'f', b'yes', now_us=10**15)\n"
        "print(found)\n"
    )
    boot = tmp_path / "boot_id"

    def verdict() -> str:
        command = [sys.executable, "-c", started + claim, str(tmp_path / "claims"), str(boot)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    boot.write_text("this run\n")
    assert [verdict(), verdict()] == ["claimed", "answered"]
    boot.write_text("the next run\n")
    assert [verdict(), verdict()] == ["claimed", "answered"]
