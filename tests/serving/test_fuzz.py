"""Generated requests, right and wrong ones, against what the OpenAPI document promises."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.harness import ADMIN_KEY, RunningServer

EXAMPLES = 25
"""Requests for each operation."""


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_every_answer_is_as_the_document_says(served: RunningServer, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    tried = set()
    for found in document.get_all_operations():
        assert not isinstance(found, Err), found
        operation = found.ok()
        takes_input = operation.body or operation.query or operation.path_parameters
        if mode is GenerationMode.POSITIVE or takes_input:
            _fuzz(operation.as_strategy(generation_mode=mode))
            tried.add(operation.label)
    assert {"POST /predict", "POST /admin/reload"} <= tried
    assert served.process.poll() is None


def _fuzz(cases: st.SearchStrategy[Case[Any]]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def ask(case: Case[Any]) -> None:
        # A schema cannot say everything that is refused: whole cents, times after 1970.
        beyond: list[CheckFunction] = [positive_data_acceptance]
        case.call_and_validate(headers={"x-api-key": ADMIN_KEY}, excluded_checks=beyond)

    ask()
