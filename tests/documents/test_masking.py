"""No secret is stored, logged or displayed."""

import logging

import pytest

from ossy_event_store.documents.masking import mask
from ossy_event_store.mongodb.write_errors import short_reason
from ossy_event_store.subscriptions import checkpoints
from ossy_event_store.subscriptions.checkpoints import error_record


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at mongodb://ann:s3cret@db/x, twice", "at mongodb://***@db/x, twice"),
        ("mongodb://ann:s3/cr?et@db/x", "mongodb://***@db/x"),
        ("'redis://:s3cret@db' failed", "'redis://***@db' failed"),
        ("?tlsCertificateKeyFilePassword=s3cret&w=1", None),
        ("authMechanismProperties=AWS_SESSION_TOKEN:s3cret,A:b", None),
        (
            "ann@example.org // see http://host/x",
            "ann@example.org // see http://host/x",
        ),
    ],
)
def test_credentials_are_masked(text, masked):
    assert "s3cret" not in mask(text)
    assert masked in (None, mask(text))


def failed():
    try:
        raise ValueError("cannot reach mongodb://ann:s3cret@db.example.org/x")
    except ValueError as error:
        return error


def test_an_error_is_stored_without_its_secrets(monkeypatch):
    record = error_record(failed())
    assert "db.example.org" in record["error"]
    assert "db.example.org" in record["traceback"]
    assert "s3cret" not in str(record)
    assert "s3cret" not in short_reason(failed())
    # A URL of which the beginning is cut off.
    monkeypatch.setattr(
        checkpoints, "TRACEBACK_CHARACTERS", len("s3cret@db.example.org/x\n")
    )
    assert "s3cret" not in error_record(failed())["traceback"]


def test_a_log_has_no_secrets(caplog):
    logger = logging.getLogger("ossy_event_store")
    logger.error("%s", failed(), exc_info=failed())
    logger.error("%d", 1)
    assert "db.example.org" in caplog.text
    assert "s3cret" not in caplog.text
    assert caplog.records[0].exc_info  # for those who report errors
    assert caplog.records[1].args == (1,)
