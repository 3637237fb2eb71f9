"""The metrics for Prometheus at /metrics, and the spans of a request's stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import get_args

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from serving.schemas.answers import FallbackReason

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

SECONDS = Histogram(
    "eager_llm_request_seconds",
    "Seconds by endpoint and stage: features, queue, decode, and total",
    ["endpoint", "stage"],
    buckets=_SECONDS,
)
REQUESTS = Counter("eager_llm_requests", "Requests by endpoint and status", ["endpoint", "status"])
BATCH = Histogram("eager_llm_batch_size", "Requests decoded together", buckets=_COUNTS)
BEAMS = Histogram(
    "eager_llm_beams", "Beams of a request", buckets=(1, 5, 10, 20, 50, 100, 200, 500, 1000)
)
FALLBACKS = Counter("eager_llm_fallbacks", "Answers of the fallback by cause", ["cause"])
HITS = Counter("eager_llm_prefix_cache_hits", "Prompts of which the cache held a beginning")
MISSES = Counter("eager_llm_prefix_cache_misses", "Prompts of which the cache held nothing")
EVENTS = Counter("eager_llm_events", "Events by what became of them", ["status"])
QUEUE = Gauge(
    "eager_llm_queue_length", "Requests that wait for the decoder", multiprocess_mode="livesum"
)
BUNDLE = Gauge(
    "eager_llm_bundle_info",
    "The bundle in service: always 1",
    ["version", "index_version", "schema_version", "place"],
    multiprocess_mode="livemax",
)
for _cause in get_args(FallbackReason):
    FALLBACKS.labels(_cause)

# Spans are recorded only where OTEL_EXPORTER_OTLP_ENDPOINT is set.
tracer = trace.get_tracer("eager_llm.serving")


@contextmanager
def stage(endpoint: str, name: str) -> Iterator[trace.Span]:
    """Time a stage of a request, as a metric and as a span."""
    start = perf_counter()
    with tracer.start_as_current_span(f"{endpoint} {name}", record_exception=False) as span:
        try:
            yield span
        finally:
            SECONDS.labels(endpoint, name).observe(perf_counter() - start)
