"""Which errors are worth another try, asked of the real policy with the real classes."""

import pickle

import pytest
from airflow.sdk import ExceptionRetryPolicy, RetryAction
from nightlabel_airflow.retries import RETRY_BY_ERROR

from inference import errors

TRY_AGAIN = {
    "TransientError", "StoreUnavailableError", "SinkUnavailableError", "MemoryLimitError", "WorkerDiedError",
    "RunInterruptedError", "SchemaNewerError", "SchemaOutdatedError", "StaleAttemptError",
    "ModelSourceUnavailableError",
}  # fmt: skip
ERRORS = sorted(
    (error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.InferenceError)),
    key=lambda error: error.__name__,
)


def decide(error: BaseException, policy: ExceptionRetryPolicy = RETRY_BY_ERROR):
    return policy.evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_only_trouble_outside_is_tried_again(error):
    expected = RetryAction.RETRY if error.__name__ in TRY_AGAIN else RetryAction.FAIL

    assert decide(error("something happened")).action is expected


def test_the_task_says_why_it_is_tried_again_or_not():
    assert decide(errors.BucketMissingError("")).reason == "somebody has to change something first"
    assert decide(errors.StaleAttemptError("")).reason == "a newer plan has taken over, and its shard is next"


@pytest.mark.parametrize("error", [KeyError("a bug"), MemoryError(), TimeoutError()])
def test_what_is_not_ours_is_left_to_the_number_of_retries(error):
    assert decide(error).action is RetryAction.DEFAULT


def test_an_error_that_crossed_a_process_is_still_recognised():
    error = pickle.loads(pickle.dumps(errors.SinkUnavailableError("the database does not answer")))

    assert decide(error).action is RetryAction.RETRY


def test_the_policy_decides_the_same_after_its_way_through_the_database():
    again = ExceptionRetryPolicy.deserialize(RETRY_BY_ERROR.serialize())

    assert {error.__name__: decide(error(""), again).action for error in ERRORS} == {
        error.__name__: decide(error("")).action for error in ERRORS
    }
