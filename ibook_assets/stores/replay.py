"""Replay: logged predictions made again from the exact model, every hash on the way verified.

A score is compared bit by bit. Beside it, where the lake still holds the facts, the vector itself
is computed anew by batch as of the moment that was served, and compared feature by feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from ibook_assets.core.canonical import sha256_hex
from ibook_assets.core.errors import ContractError, IntegrityError, NotFoundError
from ibook_assets.core.manifest import ManifestEntry
from ibook_assets.core.predictions import Trace, verify
from ibook_assets.core.promotion import Artefact
from ibook_assets.core.skew import definition_of
from ibook_assets.models.bundle import ModelBundle
from ibook_assets.stores.artefacts import load_artefact
from ibook_assets.stores.batch_vectors import BatchFeatures
from ibook_assets.stores.blobs import Blobs
from ibook_assets.stores.lineage import identity, manifest_of, models_of
from ibook_assets.stores.promotions import PromotionLog

Culprit = Literal["trace", "vector", "record", "artefact", "definition", "score", "partition"]
"""What is not as it was recorded."""

_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is not as it was recorded."""

    culprit: Culprit
    what: str
    """Which one, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One prediction made again."""

    trace: Trace
    fault: Fault | None
    """Why its score is not reproduced; None when it is, bit for bit."""
    differing: tuple[str, ...] | None = None
    """Features that batch computes differently; None when it cannot compute them."""
    unavailable: str | None = None
    """Why batch cannot."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The training data behind some of the models, its files verified."""

    snapshot: str
    files: int
    faults: tuple[Fault, ...]
    """Partitions that were changed after the model had learnt from them."""
    gone: int = 0
    """Files that a later version has replaced: they can be rematerialised, not read again."""
    note: str | None = None
    """Why nothing could be verified."""


@dataclass(slots=True)
class _Loaded:
    bundle: ModelBundle | None
    fault: Fault | None = None
    definition: str = ""
    batch: BatchFeatures | str = ""
    """What computes its vectors, or why nothing does."""


@dataclass(slots=True)
class Replayer:
    """Makes predictions of one lake again; models and records are read once."""

    blobs: Blobs
    _models: dict[tuple[str, str], _Loaded] = field(default_factory=dict)
    _artefacts: dict[str, dict[str, Artefact]] = field(default_factory=dict)

    def replay(self, traces: Sequence[Trace]) -> list[Replayed]:
        """Each of `traces` made again, in order; what is wrong is in the answer, not raised."""
        found: dict[int, Replayed] = {}
        sound: dict[tuple[str, str], list[int]] = {}
        for at, trace in enumerate(traces):
            fault = _sealed_fault(trace)
            if fault is not None:
                found[at] = Replayed(trace, fault)
            else:
                sound.setdefault((trace.use_case, trace.artefact), []).append(at)
        for key, places in sound.items():
            model = self._model(*key)
            again = _rescored(model, [traces[at] for at in places])
            found |= dict(zip(places, again, strict=True))
        return [found[at] for at in range(len(traces))]

    def snapshots(
        self, traces: Sequence[Trace], *, progress: Callable[[int], None] = lambda _: None
    ) -> list[Snapshot]:
        """The training snapshots of `traces`, every file compared with its manifest.

        Args:
            traces: whose models learnt from them.
            progress: told how many more files were compared.
        """
        ids = dict.fromkeys(trace.training_snapshot for trace in traces)
        return [self._snapshot(snapshot, progress) for snapshot in ids]

    def _model(self, use_case: str, artefact: str) -> _Loaded:
        key = use_case, artefact
        if key not in self._models:
            self._models[key] = self._load(use_case, artefact)
        return self._models[key]

    def _load(self, use_case: str, artefact: str) -> _Loaded:
        try:
            promoted = self._promoted(use_case).get(artefact)
            if promoted is None:
                what = f"no entry of the {use_case} promotions names artefact {artefact}"
                return _Loaded(None, Fault("record", what))
            bundle = ModelBundle.load(load_artefact(self.blobs, promoted), sha256=promoted.sha256)
        except ContractError as error:
            return _Loaded(None, Fault("artefact", str(error)))
        definition = definition_of(bundle.feature_names, bundle.info.spec_hashes)
        return _Loaded(bundle, None, definition, self._batch(bundle))

    def _batch(self, bundle: ModelBundle) -> BatchFeatures | str:
        try:
            current = definition_of(bundle.feature_names)
        except ContractError:
            current = ""
        if current != definition_of(bundle.feature_names, bundle.info.spec_hashes):
            return "this code defines its features differently"
        return BatchFeatures(self.blobs, bundle.feature_names)

    def _promoted(self, use_case: str) -> Mapping[str, Artefact]:
        if use_case not in self._artefacts:
            self._artefacts[use_case] = {
                identity(model): model.artefact
                for record in PromotionLog(self.blobs).history(use_case)
                for _, model in models_of(record)
            }
        return self._artefacts[use_case]

    def _snapshot(self, snapshot: str, progress: Callable[[int], None]) -> Snapshot:
        try:
            entries = manifest_of(self.blobs, snapshot).entries
        except NotFoundError:
            return Snapshot(snapshot, 0, (), note="this lake has no manifest of it")
        except IntegrityError as error:
            return Snapshot(snapshot, 0, (Fault("partition", str(error)),))

        def check(entry: ManifestEntry) -> Fault | Literal["gone"] | None:
            found = self._entry_fault(entry)
            progress(1)
            return found

        with ThreadPoolExecutor(_READERS) as pool:
            checked = list(pool.map(check, entries))
        faults = tuple(found for found in checked if isinstance(found, Fault))
        return Snapshot(snapshot, len(entries), faults, checked.count("gone"))

    def _entry_fault(self, entry: ManifestEntry) -> Fault | Literal["gone"] | None:
        try:
            found = sha256_hex(self.blobs.get(entry.path))
        except NotFoundError:
            return "gone"
        if found == entry.sha256:
            return None
        what = IntegrityError(
            path=f"{entry.table}/{entry.partition} ({self.blobs.location(entry.path)})",
            expected=entry.sha256,
            found=found,
        )
        return Fault("partition", str(what))


def _sealed_fault(trace: Trace) -> Fault | None:
    try:
        verify(trace, where=trace.name)
    except IntegrityError as error:
        is_vector = error.path.startswith("the vector of")
        return Fault("vector" if is_vector else "trace", str(error))
    return None


def _rescored(model: _Loaded, traces: Sequence[Trace]) -> list[Replayed]:
    """`traces` of one model, scored in one call."""
    if model.bundle is None:
        return [Replayed(trace, model.fault) for trace in traces]
    width = len(model.bundle.feature_names)
    faults = [_definition_fault(model, trace, width) for trace in traces]
    fitting = [at for at, fault in enumerate(faults) if fault is None]
    vectors = b"".join(traces[at].vector for at in fitting)
    matrix = np.frombuffer(vectors, dtype="<f4").reshape(len(fitting), width)
    scores = np.asarray(model.bundle.score(matrix), dtype=np.float64)
    for at, score in zip(fitting, scores.tolist(), strict=True):
        faults[at] = _score_fault(traces[at], score)
    compared = _compared(model.batch, [traces[at] for at in fitting], matrix)
    batch = dict(zip(fitting, compared, strict=True))
    nothing: tuple[None, str] = None, "the trace is not sound"
    return [Replayed(trace, faults[at], *batch.get(at, nothing)) for at, trace in enumerate(traces)]


def _definition_fault(model: _Loaded, trace: Trace, width: int) -> Fault | None:
    if trace.definition == model.definition and len(trace.vector) == 4 * width:
        return None
    what = (
        f"{trace.name} has a vector of {len(trace.vector) // 4} features of definition "
        f"{trace.definition}, its model reads {width} of definition {model.definition}"
    )
    return Fault("definition", what)


def _score_fault(trace: Trace, score: float) -> Fault | None:
    """Bits are compared, so that a zero's sign counts too."""
    if np.float64(score).tobytes() == np.float64(trace.score).tobytes():
        return None
    what = f"{trace.name} was scored {trace.score!r}, its vector and model give {score!r}"
    return Fault("score", what)


def _compared(
    batch: BatchFeatures | str, traces: Sequence[Trace], served: np.ndarray[Any, Any]
) -> list[tuple[tuple[str, ...] | None, str | None]]:
    """Per trace the features that batch computes differently, or None and why it computes none."""
    if isinstance(batch, str):
        return [(None, batch)] * len(traces)
    vectors, reasons = batch.of(traces)
    found: list[tuple[tuple[str, ...] | None, str | None]] = []
    for mine, theirs, reason in zip(served, vectors, reasons, strict=True):
        if reason is not None:
            found.append((None, reason))
            continue
        alike = (mine.view(np.int32) == theirs.view(np.int32)) | (np.isnan(mine) & np.isnan(theirs))
        found.append((tuple(batch.features[i] for i in np.flatnonzero(~alike)), None))
    return found
