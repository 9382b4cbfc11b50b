"""`python -m ibook_serving`: serve the promoted models over HTTP."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from pydantic import ValidationError

from ibook_assets.core.errors import ContractError
from ibook_assets.core.settings import Settings
from ibook_serving.api import Readiness
from ibook_serving.logs import configure_logging
from ibook_serving.processes.binding import check_binding
from ibook_serving.telemetry.metrics import prepare_metrics

_EXAMPLE: Final = '{"requests":[{"user_id":1042,"event_id":17,"amount":120.5}]}'


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code: 0 stopped, 1 kept dying, 2 wrong options."""
    try:
        settings = _settings(argv)
        check_binding(settings)
    except (ContractError, ValidationError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging()
    # XGBoost imports scikit-learn when it is there: 3 s and 130 MB for classes nothing here uses.
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    prepare_metrics(settings.home.resolve() / "metrics" / str(settings.port))
    from ibook_serving.app import build_server

    greeted = False

    def greet(report: bytes) -> None:
        nonlocal greeted
        if not greeted:
            greeted = True
            sys.stdout.write(_greeting(settings, msgspec.json.decode(report, type=Readiness)))
            sys.stdout.flush()

    return 0 if build_server(settings).serve(greet) else 1


def _settings(argv: Sequence[str] | None) -> Settings:
    """Settings with the options of the command line over them."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m ibook_serving", description=__doc__)
    parser.add_argument("--host", help=f"address to bind to (default {defaults.host})")
    parser.add_argument("--port", type=int, help=f"port (default {defaults.port})")
    parser.add_argument(
        "--processes",
        type=int,
        dest="api_processes",
        help=f"API processes (default {defaults.api_processes})",
    )
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    return Settings(**given)


def _greeting(settings: Settings, readiness: Readiness) -> str:
    address = f"http://{settings.host}:{settings.port}"
    model = (
        f"{readiness.use_case} model {readiness.model_version}, "
        f"features as of {readiness.features_as_of or 'never: no history is published'}"
        if readiness.ready
        else f"no {readiness.use_case} model is promoted yet; it will serve as soon as one is"
    )
    return (
        f"Serving on {address} (documentation at {address}/docs): {model}\n"
        f"  curl -s '{address}/predict?explain=true' -d '{_EXAMPLE}'\n"
    )


if __name__ == "__main__":
    sys.exit(main())
