"""OpenTelemetry: spans of every request and its stages go to OTEL_EXPORTER_OTLP_ENDPOINT."""

from collections.abc import Mapping
from typing import Any

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
UNTRACED_PATHS = "/livez,/readyz,/healthz,/metrics"


def tracing_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return BentoML's options: one span a request, and no spans where no endpoint is set."""
    endpoint = environment.get(ENDPOINT_VARIABLE, "").rstrip("/")
    if not endpoint:
        return {"tracing": {"excluded_urls": "."}}
    return {
        "tracing": {
            "exporter_type": "otlp",
            "sample_rate": 1.0,
            "excluded_urls": UNTRACED_PATHS,
            "otlp": {"protocol": "http", "endpoint": f"{endpoint}/v1/traces"},
        }
    }


def start_tracing(environment: Mapping[str, str]) -> None:
    """Send the spans of the stages where BentoML sends its own."""
    if not environment.get(ENDPOINT_VARIABLE):
        return
    from bentoml._internal.configuration.containers import BentoMLContainer
    from opentelemetry import trace

    trace.set_tracer_provider(BentoMLContainer.tracer_provider.get())
