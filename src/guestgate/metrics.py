"""What the door measures of itself. The admin listener asks for it and passes it on to Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics

from guestgate.eligibility import Finding
from guestgate.model import CheckIn, Outcome, Reason, Ruling

disable_created_metrics()

# The platform gives up at 0.75 s; 0.4 s is the default budget.
ANSWER_EDGES_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
COMMIT_EDGES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class DoorMetrics:
    """The door's figures, in a registry of their own. Lives in the event loop."""

    def __init__(self) -> None:
        """Everything is zero, and every outcome and reason is there from the start."""
        self._registry = CollectorRegistry()
        self._decisions = self._counter(
            "guestgate_decisions", "Check-ins by what they were told.", "outcome", "reason"
        )
        self._keys = self._counter("guestgate_key_calls", "Check-ins by the key they came with.", "studio", "key")
        self.other_calls = self._counter(
            "guestgate_other_calls", "Calls that asked nothing, by status: a wrong key is a 401.", "status"
        )
        self.undelivered = self._counter(
            "guestgate_undelivered", "Decisions whose answer did not leave in time, or found the caller gone."
        )
        self._in_time = self._counter(
            "guestgate_in_time", "Check-ins whose yes or no left within the budget, and found the caller there."
        )
        self.webhooks = self._counter(
            "guestgate_webhooks", "Webhooks that were taken, by whether they could be kept.", "outcome"
        )
        self._answers = self._histogram(
            "guestgate_answer_seconds", "From a check-in's headers to its answer.", ANSWER_EDGES_S
        )
        self._batches = self._histogram("guestgate_batch_size", "Check-ins in one commit.", BATCH_EDGES)
        self._commits = self._histogram(
            "guestgate_commit_seconds", "How long the database took to make a batch durable.", COMMIT_EDGES_S
        )
        self.queue_depth = Gauge(
            "guestgate_queue_depth", "Check-ins that wait for the ledger.", registry=self._registry
        )
        self.stood_in = self._counter(
            "guestgate_stand_in_decisions", "Check-ins answered without the shared database.", "outcome"
        )
        self._validations = self._counter(
            "guestgate_validations", "Member validations by what they were told.", "outcome", "reason"
        )
        self._validation_answers = self._histogram(
            "guestgate_validation_seconds", "From a member validation's headers to its answer.", ANSWER_EDGES_S
        )
        for finding in Finding:
            self._validations.labels(finding.outcome, finding)
        for kept in ("kept", "not_kept"):
            self.webhooks.labels(kept)
        for outcome in Outcome:
            self.stood_in.labels(outcome)
        for reason in Reason:
            allows = reason in (Reason.OK, Reason.REENTRY)
            outcome = Outcome.ALLOWED if allows else Outcome.DENIED
            self._decisions.labels(Outcome.UNDECIDED if reason is Reason.UNAVAILABLE else outcome, reason)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, edges: tuple[float, ...]) -> Histogram:
        return Histogram(name, what, buckets=edges, registry=self._registry)

    def answered(self, ruling: Ruling, checkin: CheckIn, seconds: float, *, arrived: bool) -> None:
        """A check-in's answer has left, so many seconds after its headers; `arrived` where the caller was there."""
        self._decisions.labels(ruling.outcome, ruling.reason).inc()
        self._keys.labels(checkin.studio_id, checkin.key_fingerprint).inc()
        self._answers.observe(seconds)
        if arrived and ruling.outcome is not Outcome.UNDECIDED:
            self._in_time.inc()

    def validated(self, finding: Finding, seconds: float) -> None:
        """A member validation has got its answer, so many seconds after its headers."""
        self._validations.labels(finding.outcome, finding).inc()
        self._validation_answers.observe(seconds)

    def committed(self, batch_size: int, seconds: float) -> None:
        """A batch is on disk."""
        self._batches.observe(batch_size)
        self._commits.observe(seconds)

    def collect(self) -> list[Metric]:
        """The figures as they are now, ready to be sent to another process."""
        return list(self._registry.collect())

    def of_answers(self) -> list[Metric]:
        """Of these how many answers there were, how soon and in time; as soon collected with 1000 keys as one."""
        return [*self._answers.collect(), *self._in_time.collect()]


def merged(figures: Iterable[list[Metric]]) -> list[Metric]:
    """Sums, of what several doors measured: figure by figure, label by label."""
    sums: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for metric in (metric for metrics in figures for metric in metrics):
        if metric.name not in sums:
            sums[metric.name] = Metric(metric.name, metric.documentation, metric.type)
            values[metric.name] = {}
        for sample in metric.samples:
            key = sample.name, tuple(sample.labels.items())
            values[metric.name][key] = values[metric.name].get(key, 0.0) + sample.value
    for name, metric in sums.items():
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return list(sums.values())


def counters(figures: list[Metric]) -> list[Metric]:
    """Those that only grow, and so are to be kept when whoever counted has ended."""
    return [metric for metric in figures if metric.type != "gauge"]
