"""What S3's refusals mean: each becomes one sentence that says what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as AwsConnectionError

from airflow_pg_s3.core.errors import InputError, StorageError

# Refusals with status 403 that another attempt may not meet.
_PASSING = ("ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "TokenRefreshRequired")
_NO_SCHEME = re.compile(r"Invalid endpoint: (?!https?://)")
_ENDPOINT = "endpoint_url in the AWS connection's extra"


class AccessDenied(InputError):
    """S3 does not let us into the bucket, or has none of that name; no other object of it will be better."""


class Unreadable(InputError):
    """S3 holds an object, and does not give it out as it was asked for; others may well be readable."""


class OutcomeUnknown(StorageError):
    """It is not known whether S3 has done what it was asked."""


@contextlib.contextmanager
def translate_errors(bucket: str) -> Iterator[None]:
    """Turn what goes wrong between here and S3 into one sentence that says what to do.

    :raises AccessDenied: there is no such bucket, or no right to use it.
    :raises StorageError: anything else.
    """
    try:
        yield
    except ClientError as error:
        raise explain_refusal(error, bucket) from error
    except BotoCoreError as error:
        raise unreachable(error) from error


def unreachable(error: BotoCoreError) -> StorageError:
    """Say in one sentence why a request has not come to S3."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        # A machine's role may give them a moment later.
        return StorageError(
            f"there are no AWS credentials ({error}): put a key into login and password of the AWS connection, a "
            "role into its extra (role_arn), or give the machine a role"
        )
    advice = ""
    if "WRONG_VERSION_NUMBER" in str(error):
        advice = f"; the store may speak http only: write http:// in {_ENDPOINT}"
    elif isinstance(error, AwsConnectionError):
        advice = f"; check the network and, for a store that is not Amazon's, {_ENDPOINT}"
    return StorageError(f"S3 cannot be reached: {error}{advice}")


def unusable(error: Exception) -> str:
    """Say in short why no client can be made, and what to do."""
    if isinstance(error, PartialCredentialsError):
        return f"{error}; set it"
    if _NO_SCHEME.match(str(error)):
        return f"{error}; write http:// or https:// before it"
    return str(error)


def explain_refusal(error: ClientError, bucket: str) -> AccessDenied | StorageError:
    """Turn S3's refusal into one sentence that says what to do."""
    code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "NoSuchBucket":
        return AccessDenied(f"the bucket {bucket!r} does not exist: create it, or correct the URI")
    if code == "RequestTimeTooSkewed":
        return StorageError(
            f"S3 refuses requests whose time differs from its own ({said}): set the clock of the worker or of "
            "the S3 server right"
        )
    if is_about_rights(error):
        return AccessDenied(
            f"S3 refuses access to bucket {bucket!r} ({code}), saying {said!r}: check the AWS connection's rights"
        )
    return StorageError(f"S3 failed on bucket {bucket!r}: {error}")


def explain_unreadable(error: ClientError, bucket: str, key: str) -> Unreadable | AccessDenied | StorageError:
    """Turn S3's refusal to give out an object into one sentence; `Unreadable` if it is about this object alone."""
    code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    uri = f"s3://{bucket}/{key}"
    if code == "InvalidObjectState":
        return Unreadable(
            f"{uri} lies in an archive storage class, from which S3 gives nothing out before it is asked to "
            f"({said}): run aws s3api restore-object and wait until it is done, or restore with thaw="
        )
    if code.startswith("KMS.") or "kms:" in said:
        return Unreadable(f"S3 may not decrypt {uri} ({code}): {said}")
    if status_of(error) == HTTPStatus.BAD_REQUEST and "encrypt" in said.lower():
        return Unreadable(
            f"S3 cannot decrypt {uri}: what was stored with SSE-C is read with the same SSECustomerAlgorithm and "
            f"SSECustomerKey in s3_extra_args, and all else without them ({said})"
        )
    return explain_refusal(error, bucket)


def is_about_rights(error: ClientError) -> bool:
    """True if S3 has refused this to whoever asks, so that trying again changes nothing."""
    return status_of(error) in (401, 403) and error.response["Error"]["Code"] not in _PASSING


def status_of(error: Exception) -> int:
    """HTTP status of S3's answer, 0 if there was none."""
    if isinstance(error, ClientError):
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 0


def is_refused(error: Exception) -> bool:
    """True if S3 has said no to all of a request, so that nothing of it can happen later.

    A no to a second attempt says nothing of the first; a conflict (409) means that another one is being made.
    """
    if not isinstance(error, ClientError) or error.response["ResponseMetadata"].get("RetryAttempts"):
        return False
    return 400 <= status_of(error) < 500 and status_of(error) not in (408, 409, 429)
