"""What is measured, for Prometheus: with `histograms.py` the only module that knows prometheus-client.

Names follow vLLM's metrics where those measure the same (docs/operations.md has both); units and suffixes are
Prometheus's. What is true at a moment (queue, cache, states) is asked for when somebody scrapes; only what happens is
counted as it happens. Nothing is labelled with what a client can make up: routes are the templates of routes, and of
keys' names the first so many have their own label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from quern import __version__
from quern.events import TurnEnded
from quern.obs.histograms import BETWEEN_TOKENS, FIRST_TOKEN, LAG, ROWS, STEP, TOKENS, WHOLE, HotHistogram
from quern.types import AttachedBy, KvUsage, LoopKind, StepFacts

disable_created_metrics()  # twice the series, which nobody asks for

OTHER = "other"
"""The label of all keys beyond those that have their own, and of requests that reached no route."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is true of one model when somebody scrapes. `states`: all that its engine can be in, and whether it is;
    `waiting`: turns by priority; `kv`: None where the engine doesn't tell; `facts` of what is served, once known.
    """

    name: str
    states: Mapping[str, bool]
    load_progress: float
    running: int
    waiting: Mapping[str, int]
    kv: KvUsage | None = None
    facts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """A turn that has ended. `key`: the name of whose it is; `total_seconds`: from its arrival; `ran`: whether it ever
    left the queue.
    """

    key: str
    priority: str
    total_seconds: float
    ran: bool
    end: TurnEnded


class _Moment(Collector):
    """Shows the last snapshots. Where several models are served, a label names whose a value is."""

    def __init__(self) -> None:
        self.snapshots: Sequence[Snapshot] = ()

    def collect(self) -> Iterable[Metric]:
        """The snapshots as gauges."""
        yield self._gauge("quern_num_requests_running", "Sequences that the engine computes.", lambda now: now.running)
        yield self._gauges(
            "quern_num_requests_waiting", "Turns that wait, by priority.", "priority", lambda now: now.waiting
        )
        yield self._gauges(
            "quern_engine_state", "1 for the state that the engine is in.", "state", lambda now: now.states
        )
        yield self._gauge(
            "quern_model_load_progress", "How far the model is loaded, 0 to 1.", lambda now: now.load_progress
        )
        info = InfoMetricFamily("quern_model", "The models that are served, and what runs them.")
        for now in self.snapshots:
            if now.facts is not None:
                info.add_metric([], dict(now.facts))
        if info.samples:
            yield info
        if any(now.kv is not None for now in self.snapshots):
            yield self._gauges("quern_kv_cache_blocks", "Blocks of the KV cache, by what they hold.", "state", _blocks)
            yield self._gauge("quern_kv_cache_usage_perc", "The share that sequences hold, 0 to 1.", _kv_usage)

    def _gauge(self, name: str, documentation: str, value: Callable[[Snapshot], float | None]) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=self._labels())
        for now in self.snapshots:
            if (amount := value(now)) is not None:
                family.add_metric(self._of(now), float(amount))
        return family

    def _gauges(
        self, name: str, documentation: str, label: str, values: Callable[[Snapshot], Mapping[str, float]]
    ) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=[label, *self._labels()])
        for now in self.snapshots:
            for value, amount in values(now).items():
                family.add_metric([value, *self._of(now)], float(amount))
        return family

    def _labels(self) -> list[str]:
        return ["model_name"] if len(self.snapshots) > 1 else []

    def _of(self, now: Snapshot) -> list[str]:
        return [now.name] if len(self.snapshots) > 1 else []


def _blocks(now: Snapshot) -> Mapping[str, float]:
    return {} if now.kv is None else {"used": now.kv.used, "cached": now.kv.cached, "free": now.kv.free}


def _kv_usage(now: Snapshot) -> float | None:
    return None if now.kv is None else now.kv.used / max(1, now.kv.used + now.kv.cached + now.kv.free)


class Metrics:
    """Everything that is counted, and how it is shown. `max_keys`: so many keys' names are labels.

    Observations come from the event loop, those of steps from the engine's thread.
    """

    def __init__(self, max_keys: int = 50) -> None:
        self._max_keys = max_keys
        self._keys: set[str] = set()
        self._moment = _Moment()
        self._process_shown = False
        self.registry = registry = CollectorRegistry()
        registry.register(self._moment)
        Info("quern_build", "The version that runs.", registry=registry).info({"version": __version__})
        self._time_turns(registry)
        self._count_turns(registry)
        self._watch_the_server(registry)

    def _time_turns(self, registry: CollectorRegistry) -> None:
        self.first_token = Histogram(
            "quern_time_to_first_token_seconds",
            "From a turn's arrival to its first token.",
            registry=registry,
            buckets=FIRST_TOKEN,
        )
        self.between_tokens = HotHistogram(
            registry, "quern_inter_token_latency_seconds", "Between two tokens of an answer.", BETWEEN_TOKENS
        )
        self._per_token = Histogram(
            "quern_request_time_per_output_token_seconds",
            "A turn's mean time for each token after the first.",
            registry=registry,
            buckets=BETWEEN_TOKENS,
        )
        self._whole = Histogram(
            "quern_e2e_request_latency_seconds",
            "From a turn's arrival to its end.",
            registry=registry,
            buckets=WHOLE,
        )
        self._queued = Histogram(
            "quern_request_queue_time_seconds",
            "How long turns waited, by priority.",
            ["priority"],
            registry=registry,
            buckets=WHOLE,
        )
        self._prefill = Histogram(
            "quern_request_prefill_time_seconds", "From the queue to the first token.", registry=registry, buckets=WHOLE
        )
        self._decode = Histogram(
            "quern_request_decode_time_seconds",
            "From the first token to the last.",
            registry=registry,
            buckets=WHOLE,
        )
        self._prompt_lengths = Histogram(
            "quern_request_prompt_tokens", "Tokens of turns' prompts.", registry=registry, buckets=TOKENS
        )
        self._answer_lengths = Histogram(
            "quern_request_generation_tokens", "Tokens of turns' answers.", registry=registry, buckets=TOKENS
        )

    def _count_turns(self, registry: CollectorRegistry) -> None:
        self._turns = Counter(
            "quern_turns", "Turns by how they ended.", ["state", "finished_reason"], registry=registry
        )
        self._prompt_tokens = Counter(
            "quern_prompt_tokens", "Tokens of prompts, cached or not, by key.", ["key"], registry=registry
        )
        self._cached_tokens = Counter(
            "quern_prompt_tokens_cached", "Those of them that the cache had, by key.", ["key"], registry=registry
        )
        self._generated_tokens = Counter(
            "quern_generation_tokens", "Tokens that were generated, by key.", ["key"], registry=registry
        )
        self._loops = Counter(
            "quern_loops_ended",
            "Turns that were ended as they went round in circles: their tokens, or their conversations' calls.",
            ["kind"],
            registry=registry,
        )
        for kind in LoopKind:
            self._loops.labels(kind.value)
        self._attached = Counter(
            "quern_attached_retries",
            "Retries that got turns which were there, by how they were known.",
            ["by"],
            registry=registry,
        )
        for by in AttachedBy:
            self._attached.labels(by.value)
        self._queries = Counter(
            "quern_prefix_cache_queries", "Tokens of prompts that the prefix cache was asked for.", registry=registry
        )
        self._hits = Counter("quern_prefix_cache_hits", "Those of them that were found there.", registry=registry)
        self._repairs = Counter(
            "quern_tool_call_repairs", "Slips of the model that were mended in its tool calls.", registry=registry
        )

    def _watch_the_server(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "quern_http_requests", "Requests by route and status.", ["method", "route", "status"], registry=registry
        )
        self._refusals = Counter(
            "quern_refusals", "Requests that were answered with an error, by its kind.", ["kind"], registry=registry
        )
        self._ignored = Counter(
            "quern_ignored_fields", "Fields of requests that were left out, by route.", ["route"], registry=registry
        )
        self._step_seconds = Histogram(
            "quern_engine_step_seconds", "How long a step of the engine took.", registry=registry, buckets=STEP
        )
        self._step_rows = Histogram(
            "quern_engine_step_sequences", "Sequences in a step of the engine.", registry=registry, buckets=ROWS
        )
        self._step_tokens = Histogram(
            "quern_iteration_tokens", "Tokens that a step of the engine computed.", registry=registry, buckets=TOKENS
        )
        self._preemptions = Counter(
            "quern_num_preemptions", "Sequences that gave their blocks back and waited again.", registry=registry
        )
        self.event_loop_lag = HotHistogram(
            registry, "quern_event_loop_lag_seconds", "How late the event loop comes to what is due.", LAG
        )

    def turn_ended(self, facts: TurnFacts) -> None:
        """Count a turn."""
        end, usage, timings, key = facts.end, facts.end.usage, facts.end.timings, self._key_label(facts.key)
        self._turns.labels(end.state.value, end.finish_reason.value if end.finish_reason is not None else "").inc()
        self._whole.observe(facts.total_seconds)
        self._queued.labels(facts.priority).observe(timings.queued_ms / 1000)
        self._repairs.inc(end.repairs)
        if end.loop is not None:
            self._loops.labels(end.loop.kind.value).inc()
        if not facts.ran:
            return
        self._count_prompt(key, usage.prompt_tokens, usage.cached_tokens)
        self._generated_tokens.labels(key).inc(usage.completion_tokens)
        self._prefill.observe(timings.prefill_ms / 1000)
        self._prompt_lengths.observe(usage.prompt_tokens)
        self._answer_lengths.observe(usage.completion_tokens)
        if usage.completion_tokens:
            self._decode.observe(timings.decode_ms / 1000)
        if usage.completion_tokens > 1:
            self._per_token.observe(timings.decode_ms / 1000 / (usage.completion_tokens - 1))

    def retry_attached(self, by: AttachedBy) -> None:
        """Count a retry that got turns which were there."""
        self._attached.labels(by.value).inc()

    def embedded(self, key: str, tokens: int) -> None:
        """Count texts that were embedded for a key."""
        self._count_prompt(self._key_label(key), tokens, 0)

    def step(self, step: StepFacts) -> None:
        """Count a step of the engine."""
        self._step_seconds.observe(step.seconds)
        self._step_rows.observe(step.rows)
        self._step_tokens.observe(step.tokens)
        if step.preempted:
            self._preemptions.inc(step.preempted)

    def request_ended(self, method: str, route: str | None, status: int, refusal: str | None, ignored: int) -> None:
        """Count an HTTP request. `route`: its template; None where it reached none. `refusal`: the kind of error."""
        # A method is the client's word unless a route took it.
        self._requests.labels(method if route is not None else OTHER, route or OTHER, str(status)).inc()
        if refusal is not None:
            self._refusals.labels(refusal).inc()
        if ignored:
            self._ignored.labels(route or OTHER).inc(ignored)

    def expose(self, snapshots: Sequence[Snapshot], accept: str) -> tuple[bytes, str]:
        """Everything, as text or as OpenMetrics, as an `Accept` header asks, and its content type.

        Reads /proc, so call it in a thread.
        """
        if not self._process_shown:
            self._process_shown = True
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self._moment.snapshots = snapshots
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _count_prompt(self, key: str, tokens: int, cached: int) -> None:
        self._prompt_tokens.labels(key).inc(tokens)
        self._cached_tokens.labels(key).inc(cached)
        self._queries.inc(tokens)
        self._hits.inc(cached)

    def _key_label(self, name: str) -> str:
        if name not in self._keys and len(self._keys) < self._max_keys:
            self._keys.add(name)
        return name if name in self._keys else OTHER
