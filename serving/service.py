"""The BentoML service: loads what its environment names, warms it up, and answers until it is told to end."""

import gc
import os
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import bentoml
import torch

from eager_llm.bundle.bundle import Bundle, fetch_bundle
from eager_llm.features.feature_store import Features
from serving.answers import Answers
from serving.decoder import Decoder
from serving.logs import configure_logs
from serving.metrics import BUNDLE
from serving.middleware import Identify, Limits
from serving.routes import new_app
from serving.settings import ServiceSettings
from serving.store import Store
from serving.tracing import start_tracing, tracing_options

REPOSITORY = Path(__file__).resolve().parents[1] / "feature_repo"
# Beyond every deadline: answers come from here, not from BentoML's own time limit.
LONGEST_SECONDS = 60
SWITCH_SECONDS = 0.001
app = new_app()


@bentoml.service(
    name="eager_llm",
    workers=1,
    traffic={"timeout": LONGEST_SECONDS},
    logging={"access": {"enabled": False}},
    # BentoML keeps a series for every path that was ever asked for, each item's among them: without bound.
    metrics={"enabled": False},
    **tracing_options(os.environ),
)
@bentoml.asgi_app(app)
class EagerLLM:
    """Recommends existing items, each once, best first."""

    def __init__(self) -> None:
        settings = ServiceSettings.read()
        configure_logs(settings.log_level)
        # The decoder's thread hands over to the event loop more often than Python would: answers leave sooner.
        sys.setswitchinterval(SWITCH_SECONDS)
        start_tracing(os.environ)
        self.decoders = {"first": _decoder(settings.bundle, "first", settings)}
        if settings.second_bundle:
            self.decoders["second"] = _decoder(settings.second_bundle, "second", settings)
        self.store: Store | None = None
        if settings.features_folder:
            max_history = self.decoders["first"].bundle.recommender.max_history
            self.store = Store(
                Features(REPOSITORY, settings.features_folder), max_history, settings
            )
            self.store.warm_up()
        app.state.answers = Answers(self.decoders, self.store, settings)
        # What stands for the life of the service is not searched for garbage: that would hold up everybody a quarter second.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """End the threads; by now every request has its answer."""
        for part in (*self.decoders.values(), self.store):
            if part is not None:
                part.close()


def _decoder(place: str, name: str, settings: ServiceSettings) -> Decoder:
    folder = (
        Path(settings.cache or tempfile.gettempdir())
        / f"eager-llm-{sha256(place.encode()).hexdigest()[:12]}"
    )
    bundle = Bundle.load(
        fetch_bundle(place, folder), "cuda" if torch.cuda.is_available() else "cpu"
    )
    decoder = Decoder(bundle, settings)
    decoder.warm_up()
    metadata = (
        bundle.version,
        bundle.recommender.index.version,
        bundle.manifest["schema_version"],
        name,
    )
    BUNDLE.labels(*map(str, metadata)).set(1)
    return decoder


def _add_middleware(service: Any) -> None:
    settings = ServiceSettings.read({"EAGER_LLM_BUNDLE": "-", **os.environ})
    service.add_asgi_middleware(Identify)
    service.add_asgi_middleware(Limits, settings=settings)


_add_middleware(EagerLLM)
