"""Promoted model artefacts: plain copies in the lake, named by their content.

Serving needs neither MLflow nor the training run's folder: `promoted/<use case>/<sha256>/` holds
the files, and the promotion record their hashes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from ibook_assets.core.canonical import canonical_sha256, sha256_hex
from ibook_assets.core.errors import ContractError, IntegrityError, NotFoundError
from ibook_assets.core.ids import check_name
from ibook_assets.core.promotion import Artefact, ArtefactFile
from ibook_assets.stores.blobs import Blobs


def publish_artefact(
    blobs: Blobs, use_case: str, files: Mapping[str, bytes], *, sha256: Mapping[str, str]
) -> Artefact:
    """Copy `files`, whose hashes were recorded at training, to where serving reads them.

    Each file is compared with its `sha256` before it is copied and again as it was stored.

    Raises:
        IntegrityError: a file is not the one that was recorded.
        ContractError: `files` and `sha256` do not name the same files.
    """
    if not files or files.keys() != sha256.keys():
        msg = (
            f"artefact has files {sorted(files)}, hashes were recorded for {sorted(sha256)}; "
            "promote exactly what training stored"
        )
        raise ContractError(msg)
    for name, data in files.items():
        _check(name, data, sha256[name])
    artefact = _described(check_name(use_case, what="use case"), files)
    for name, data in files.items():
        blobs.put(f"{artefact.uri}/{name}", data)
    load_artefact(blobs, artefact)
    return artefact


def load_artefact(blobs: Blobs, artefact: Artefact) -> dict[str, bytes]:
    """The artefact's files by name, each compared with its hash before anything parses it.

    Raises:
        IntegrityError: a file was changed, cut or lost.
    """
    files: dict[str, bytes] = {}
    for file in artefact.files:
        key = f"{artefact.uri}/{file.name}"
        try:
            data = blobs.get(key)
        except NotFoundError as error:
            raise IntegrityError(
                path=blobs.location(key), expected=file.sha256, found="(no file)"
            ) from error
        _check(blobs.location(key), data, file.sha256)
        files[file.name] = data
    return files


def _described(use_case: str, files: Mapping[str, bytes]) -> Artefact:
    try:
        listed = tuple(
            ArtefactFile(name=name, sha256=sha256_hex(files[name]), bytes=len(files[name]))
            for name in sorted(files)
        )
    except ValidationError as error:
        msg = f"artefact files {sorted(files)} need plain names of letters, digits, '_', '.', '-'"
        raise ContractError(msg) from error
    identity = canonical_sha256(Artefact(uri="", files=listed))
    return Artefact(uri=f"promoted/{use_case}/{identity}", files=listed)


def _check(path: str, data: bytes, expected: str) -> None:
    found = sha256_hex(data)
    if found != expected:
        raise IntegrityError(path=path, expected=expected, found=found)
