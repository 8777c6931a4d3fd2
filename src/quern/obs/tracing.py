"""Traces of requests and turns for OpenTelemetry: the only module that knows its libraries (`quern-coder[otel]`).

A turn is told at its end, with the times that were measured anyway, so that a stream costs nothing more. Spans have
names, counts and times; never a word of a prompt or of an answer.

Source of names and attributes: OpenTelemetry's semantic conventions for generative AI (`gen_ai.*`) and for HTTP
servers; of the header `traceparent`: W3C Trace Context.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from quern import __version__
from quern.errors import ConfigError
from quern.events import TurnEnded
from quern.sampling import SamplingParams
from quern.types import TurnState

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)

TRACES_PATH = "/v1/traces"
PROVIDER = "quern"
MISSING = (
    "Traces are asked for (tracing.otlp_endpoint), and OpenTelemetry's libraries are not installed. Install them with "
    "`pip install 'quern-coder[otel]'`, or leave the setting out."
)


@dataclass(frozen=True, slots=True)
class TurnTrace:
    """A turn that has ended. `parent`: the `traceparent` of its request's span. `operation`: as the conventions name
    it. `arrived_at`, `running_at`, `first_token_at`: seconds of the monotonic clock.
    """

    id: str
    parent: str
    operation: str
    model: str
    priority: str
    conversation_id: str | None
    sampling: SamplingParams
    arrived_at: float
    running_at: float | None
    first_token_at: float | None
    end: TurnEnded


class RequestTrace:
    """The span of a request that is being answered. `traceparent` names it to what it begins."""

    def __init__(self, span: Span, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def end(self, method: str, route: str | None, status: int) -> None:
        """It was answered. `route`: its template; None where it reached none."""
        if route is not None:
            self._span.update_name(f"{method} {route}")
            self._span.set_attributes({"http.request.method": method, "http.route": route})
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
        self._span.end()


class Tracing:
    """Writes spans through an exporter, in batches from a thread of its own, or `at_once`."""

    def __init__(self, exporter: SpanExporter, *, at_once: bool = False) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 (an extra)
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        ours = Resource({"service.name": PROVIDER, "service.version": __version__})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(PROVIDER, __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str]) -> RequestTrace:
        """A request has come; it goes on with the trace that its headers name, if they do."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span("HTTP", self._propagator.extract(carrier), kind=SpanKind.SERVER)
        written: dict[str, str] = {}
        self._propagator.inject(written, set_span_in_context(span))
        return RequestTrace(span, written.get("traceparent", ""))

    def turn_ended(self, turn: TurnTrace) -> None:
        """Write a turn's spans: itself, and in it how long it was queued and how prompt and answer were computed."""
        from opentelemetry.trace import StatusCode, set_span_in_context  # noqa: PLC0415

        now, wall = time.monotonic(), time.time_ns()

        def at(moment: float) -> int:
            return wall - round((now - moment) * 1e9)

        parent = self._propagator.extract({"traceparent": turn.parent} if turn.parent else {})
        name = f"{turn.operation} {turn.model}"
        span = self._tracer.start_span(name, parent, attributes=_attributes(turn), start_time=at(turn.arrived_at))
        if turn.end.state in {TurnState.FAILED, TurnState.INTERRUPTED}:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", turn.end.state.value)
        inside, running, first = set_span_in_context(span), turn.running_at, turn.first_token_at
        self._part("queued", inside, at(turn.arrived_at), at(running) if running is not None else wall)
        if running is not None:
            self._part("prefill", inside, at(running), at(first) if first is not None else wall)
        if first is not None:
            self._part("decode", inside, at(first), wall)
        span.end(wall)

    def close(self) -> None:
        """Send what is left. Takes seconds where nobody answers, so call it in a thread."""
        self._provider.shutdown()

    def _part(self, name: str, parent: Context, begin: int, end: int) -> None:
        self._tracer.start_span(name, parent, start_time=begin).end(end)


def tracing_of(endpoint: str | None, environment: Mapping[str, str]) -> Tracing | None:
    """What the settings ask for: `endpoint` is a collector's URL; without it the standard variables of `environment`
    decide. None where neither asks. Raises ConfigError where the setting does and the libraries are missing.
    """
    if endpoint is None and not environment:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 (an extra)
    except ImportError as error:
        if endpoint is not None:
            raise ConfigError(MISSING) from error
        log.warning("no_traces", reason="OTEL_ variables are set; install quern-coder[otel] to have traces")
        return None
    if endpoint is None:
        return Tracing(OTLPSpanExporter())
    base = endpoint.rstrip("/")
    return Tracing(OTLPSpanExporter(endpoint=base if base.endswith(TRACES_PATH) else base + TRACES_PATH))


def _attributes(turn: TurnTrace) -> dict[str, Any]:
    usage, sampling, reason = turn.end.usage, turn.sampling, turn.end.finish_reason
    optional = {
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.conversation.id": turn.conversation_id,
        "gen_ai.response.finish_reasons": [reason.value] if reason is not None else None,
    }
    return {
        "gen_ai.operation.name": turn.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": turn.model,
        "gen_ai.response.model": turn.model,
        "gen_ai.response.id": turn.id,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "quern.turn.state": turn.end.state.value,
        "quern.priority": turn.priority,
        **{name: value for name, value in optional.items() if value is not None},
    }
