"""The Dagster graph: assets, checks, schedules, resources."""

import warnings

# Single-run backfills and look-back mappings are marked beta; a warning at every start of every
# process would bury those that matter.
warnings.filterwarnings("ignore", message=".*is currently in beta.*")
