"""Row 16: no pickle, no secrets, no licence we cannot ship; each rule is shown to catch."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("ibook_assets", "ibook_serving", "ibook_sim")

UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
"""Modules whose loaders run code that the file chooses."""
UNPICKLING_CALLS = {"read_pickle", "to_pickle", "unpickle", "load_pickle"}

SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})\b",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "password in an address": r"\b[a-z][a-z0-9+]*://[^\s:/@'\"{}<$]+:[^\s:/@'\"{}<$]+@",
    "assigned secret": (
        r"(?i)\b[a-z0-9_]*(?:password|passwd|secret|api_?key|admin_?key|access_?key|token)"
        r"\s*[:=]\s*[\"']?[A-Za-z0-9+/_-]{16,}[\"']?\s*$"
    ),
}

FORBIDDEN_LICENCE = re.compile(
    r"(?<![A-Za-z])(?:AGPL|GPL|SSPL|BUSL)|GNU General Public|Affero|Server Side Public"
)
"""GPL and its kin; the lesser GPL of a library we only link to may be shipped."""
UNSTATED_LICENCES = {"huey": "MIT (the LICENSE file it installs)"}
"""Packages whose metadata states no licence, and where we read it."""


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def unpickling(source: str) -> Iterator[str]:
    """Each place of `source` that could load a pickle."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name.split(".")[0] for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                names = [module.split(".")[0]]
            case ast.Attribute(attr=name) | ast.Name(id=name):
                names = [name] if name in UNPICKLING_CALLS else []
            case ast.keyword(arg="allow_pickle", value=value):
                safe = isinstance(value, ast.Constant) and value.value is False
                names = [] if safe else ["allow_pickle"]
        for name in names:
            if name in UNPICKLERS | UNPICKLING_CALLS | {"allow_pickle"}:
                yield f"line {getattr(node, 'lineno', '?')}: {name}"


def secrets(text: str) -> Iterator[str]:
    """Each line of `text` that looks as if it held a secret, by kind."""
    for number, line in enumerate(text.splitlines(), start=1):
        for kind, pattern in SECRETS.items():
            if re.search(pattern, line):
                yield f"line {number}: {kind}"


def licence(distribution: Distribution) -> str:
    """What a distribution's metadata says about its licence."""
    metadata = distribution.metadata
    classifiers = metadata.get_all("Classifier") or []
    stated = [
        *(metadata.get_all("License-Expression") or []),
        *(line for line in classifiers if line.startswith("License ::")),
        # Some put the whole text here: its first line names it.
        *(value.strip().split("\n")[0] for value in metadata.get_all("License") or []),
    ]
    return "; ".join(value for value in stated if value)


def forbids_shipping(stated: str) -> bool:
    """Whether every choice that `stated` offers is a licence we cannot ship."""
    choices = re.split(r"\s+OR\s+", stated)
    lesser = re.compile(r"LGPL|Lesser General Public|Library or Lesser")
    return all(FORBIDDEN_LICENCE.search(lesser.sub("", choice)) for choice in choices)


def test_product_code_cannot_load_a_pickle() -> None:
    found = {
        str(path.relative_to(ROOT)): places
        for package in PRODUCT
        for path in sorted((ROOT / package).rglob("*.py"))
        if (places := list(unpickling(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.numpy_pickle as n",
        "from cloudpickle import loads",
        "def f():\n    import dill",
        "pd.read_pickle('x')",
        "from pandas import read_pickle\nread_pickle('x')",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
    ],
)
def test_the_pickle_rule_catches(source: str) -> None:
    assert list(unpickling(source))


def test_the_pickle_rule_lets_safe_code_pass() -> None:
    assert not list(unpickling("import json\nnp.load(f, allow_pickle=False)\njson.loads(x)"))


def test_no_secret_is_in_the_repository() -> None:
    found = {}
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if places := list(secrets(text)):
            found[str(path.relative_to(ROOT))] = places
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN RSA PRIVATE" + " KEY-----",
        "key = 'AKIA" + "IOSFODNN7EXAMPLE'",
        "ghp_" + "a" * 36,
        "AIza" + "b" * 35,
        "xoxb-" + "1234567890-abc",
        "ey" + "J" + "a" * 12 + ".ey" + "J" + "b" * 12 + "." + "c" * 12,
        "postgresql://ibook:" + "hunter22@db/ibook",
        "IBOOK_ADMIN_KEY" + "=" + "s3cr3t" * 3,
        'password: "' + "abcdefgh12345678" + '"',
    ],
    ids=["pem", "aws", "github", "google", "slack", "jwt", "address", "env", "yaml"],
)
def test_the_secret_rule_catches(line: str) -> None:
    assert list(secrets(line))


@pytest.mark.parametrize(
    "line",
    [
        "IBOOK_ADMIN_KEY=",
        "admin_key: SecretStr | None = Field(default=None)",
        "postgresql://${USER}:${PASSWORD}@db/ibook",
        "password = settings.password",
    ],
)
def test_the_secret_rule_lets_names_pass(line: str) -> None:
    assert not list(secrets(line))


def test_every_installed_licence_may_be_shipped() -> None:
    stated = {d.metadata["Name"]: licence(d) for d in distributions()}
    assert {name: text for name, text in stated.items() if text and forbids_shipping(text)} == {}
    assert {name for name, text in stated.items() if not text} <= UNSTATED_LICENCES.keys()


@pytest.mark.parametrize(
    ("stated", "forbidden"),
    [
        ("GPL-3.0-only", True),
        ("AGPL-3.0-or-later", True),
        ("License :: OSI Approved :: GNU Affero General Public License v3", True),
        ("GPLv2", True),
        ("License :: OSI Approved :: GNU General Public License v2 or later", True),
        ("GPL-2.0-only OR MIT", False),
        ("LGPL-3.0-or-later", False),
        ("License :: OSI Approved :: GNU Library or Lesser General Public License (LGPL)", False),
        ("Apache-2.0", False),
    ],
)
def test_the_licence_rule(stated: str, forbidden: bool) -> None:  # noqa: FBT001
    assert forbids_shipping(stated) is forbidden
