"""Tests run on the embedded miniature, offline, whatever the machine is set to."""

import os

os.environ["MRL_COURSE_DATA"] = "mini"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes examples slowly: that is no fault of theirs.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def triplets():
    """Forty made-up triplets with a shared theme, enough to train something tiny."""
    animals = ["dog", "cat", "horse", "bird", "fish", "cow", "sheep", "goat"]
    verbs = ["runs", "sleeps", "eats", "jumps", "waits"]
    return [
        (f"A {a} {v} near the old barn", f"The {a} {v}", f"No {a} {v} today")
        for a in animals
        for v in verbs
    ]
