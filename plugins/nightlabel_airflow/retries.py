"""Which failures of a task are worth another try. Pure."""

from __future__ import annotations

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from inference.errors import (
    ConfigurationError,
    InferenceError,
    RunInterruptedError,
    SchemaNewerError,
    SchemaOutdatedError,
    StaleAttemptError,
    TransientError,
)

# The first match wins. What is not ours (a bug, a killed process, a time-out) falls through to the task's `retries`.
RETRY_BY_ERROR = ExceptionRetryPolicy(
    rules=[
        RetryRule(TransientError, RetryAction.RETRY, reason="trouble outside, which may pass"),
        RetryRule(RunInterruptedError, RetryAction.RETRY, reason="somebody ended the process, not the run"),
        # Airflow listens to the newest try only. That one is stale when somebody cleared discover and not its shards.
        RetryRule(StaleAttemptError, RetryAction.RETRY, reason="a newer plan has taken over, and its shard is next"),
        RetryRule(SchemaOutdatedError, RetryAction.RETRY, reason="an upgrade may be under way"),
        RetryRule(SchemaNewerError, RetryAction.RETRY, reason="an upgrade may be under way"),
        RetryRule(ConfigurationError, RetryAction.FAIL, reason="somebody has to change something first"),
        RetryRule(InferenceError, RetryAction.FAIL, reason="it would fail again"),
    ]
)
