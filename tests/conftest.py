"""What every test shares: Hypothesis without a clock, because a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("ibook", deadline=None)
settings.load_profile("ibook")
