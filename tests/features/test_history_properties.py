"""Point-in-time histories through Feast equal a slow obvious reconstruction, for random logs with ties in time."""

import tempfile
from pathlib import Path

import pandas as pd
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.features.feature_store import Features

ROWS = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdef"), st.integers(1, 5)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.integers(1, 4))
def test_histories_equal_the_obvious_reconstruction(rows, longest):
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    events["timestamp"] = pd.to_datetime(events["timestamp"], unit="s", utc=True).dt.as_unit("us")
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    clean = prepare(
        Tables(events, items.assign(title="", description="", brand="", categories="")), 1
    )
    with tempfile.TemporaryDirectory() as folder:
        features = Features(ROOT / "feature_repo", Path(folder))
        features.publish(clean, longest)
        # At every event, and for everybody at every moment: before the first, between, and after the last.
        moments = (
            clean.events[["timestamp"]].drop_duplicates().rename(columns={"timestamp": "moment"})
        )
        after = pd.DataFrame({"moment": [moments["moment"].max() + pd.Timedelta(days=1)]})
        users = clean.events[["user_id"]].drop_duplicates()
        asked = users.merge(
            pd.concat([moments, after]).astype({"moment": "datetime64[us, UTC]"}), how="cross"
        )
        found = features.histories(asked)
    for user, moment, history in found[["user_id", "moment", "history"]].itertuples(index=False):
        past = [
            i
            for u, i, t in clean.events[["user_id", "item_id", "timestamp"]].itertuples(index=False)
            if u == user and t < moment
        ]
        assert history == past[-longest:]
