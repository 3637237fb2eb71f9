"""The BentoML service: loads its bundles, warms them up, and answers until it is told to end."""

import gc
import os
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import bentoml
import torch

from eager_llm.bundle.bundle import Bundle
from eager_llm.bundle.store import fetch_bundle
from eager_llm.features.feature_store import Features
from serving.answers import Answers
from serving.connections import bound_connections
from serving.decoder import Decoder
from serving.logs import configure_logs
from serving.metrics import BUNDLE
from serving.middleware import AdmissionMiddleware, RequestIdMiddleware
from serving.routes import new_app
from serving.settings import ServiceSettings
from serving.store import Store
from serving.tracing import start_tracing, tracing_options

REPOSITORY = Path(__file__).resolve().parents[1] / "feature_repo"
# Longer than every deadline: answers come from here, not from BentoML's own time limit.
TIMEOUT_SECONDS = 60
# Python's own is 0.005: the decoder's thread gives way to the event loop more often, so that
# answers leave sooner.
SWITCH_INTERVAL_SECONDS = 0.001
app = new_app()


@bentoml.service(
    name="eager_llm",
    workers=1,
    traffic={"timeout": TIMEOUT_SECONDS},
    logging={"access": {"enabled": False}},
    # BentoML keeps a series for every path of every request, each item's among them: no bound.
    metrics={"enabled": False},
    **tracing_options(os.environ),
)
@bentoml.asgi_app(app)
class EagerLLM:
    """Recommends existing items, each once, best first."""

    def __init__(self) -> None:
        settings = ServiceSettings.read()
        configure_logs(settings.log_level)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        start_tracing(os.environ)
        self.decoders = {"first": _start_decoder(settings.bundle, "first", settings)}
        if settings.second_bundle:
            self.decoders["second"] = _start_decoder(settings.second_bundle, "second", settings)
        self.store: Store | None = None
        if settings.features is not None:
            max_history = self.decoders["first"].bundle.recommender.max_history
            features = Features(REPOSITORY, settings.features)
            self.store = Store(features, max_history, settings)
            self.store.warm_up()
        app.state.answers = Answers(self.decoders, self.store, settings)
        # What lives as long as the service is not searched for garbage: a search over it would
        # hold up all requests for a quarter of a second.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        """End the threads; by now every request has its answer."""
        app.state.answers.close()
        for decoder in self.decoders.values():
            decoder.close()
        if self.store is not None:
            self.store.close()


def _start_decoder(location: str, name: str, settings: ServiceSettings) -> Decoder:
    """Load the bundle at a path or URI and return its decoder, warmed up."""
    cache = settings.cache or Path(tempfile.gettempdir())
    digest = sha256(location.encode()).hexdigest()
    folder = fetch_bundle(location, cache / f"eager-llm-{digest[:12]}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = Bundle.load(folder, device, with_prefix_cache=True)
    decoder = Decoder(bundle, settings)
    decoder.warm_up()
    index_version = str(bundle.recommender.index.version)
    schema_version = str(bundle.manifest["schema_version"])
    BUNDLE.labels(bundle.version, index_version, schema_version, name).set(1)
    return decoder


def _add_middleware(service: Any) -> None:
    # BentoML imports this module where no bundle is named, too; the layers do not need one.
    settings = ServiceSettings.read(bundle="-")
    service.add_asgi_middleware(RequestIdMiddleware)
    service.add_asgi_middleware(AdmissionMiddleware, settings=settings)


_add_middleware(EagerLLM)
bound_connections()
