"""OpenTelemetry: spans of every request and its stages, where OTEL_EXPORTER_OTLP_ENDPOINT says whereto."""

from collections.abc import Mapping
from typing import Any

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
UNTRACED = "/livez,/readyz,/healthz,/metrics"


def tracing_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return BentoML's options: it opens a span a request; none where no endpoint is set."""
    endpoint = environment.get(ENDPOINT_VARIABLE, "").rstrip("/")
    if not endpoint:
        return {"tracing": {"excluded_urls": "."}}
    otlp = {"protocol": "http", "endpoint": f"{endpoint}/v1/traces"}
    return {
        "tracing": {
            "exporter_type": "otlp",
            "sample_rate": 1.0,
            "excluded_urls": UNTRACED,
            "otlp": otlp,
        }
    }


def start_tracing(environment: Mapping[str, str]) -> None:
    """Let the spans of the stages go the way of BentoML's own."""
    if not environment.get(ENDPOINT_VARIABLE):
        return
    from bentoml._internal.configuration.containers import BentoMLContainer
    from opentelemetry import trace

    trace.set_tracer_provider(BentoMLContainer.tracer_provider.get())
