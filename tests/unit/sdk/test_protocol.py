"""The wire format."""

import msgspec

from windlass import protocol


def test_an_absent_value_is_left_out_and_read_back_as_absent() -> None:
    step = protocol.Step(key="k", name="k", args_hash="a", state="failed", result=protocol.ABSENT)
    text = msgspec.json.encode(step)
    assert b"result" not in text
    assert not msgspec.json.decode(text, type=protocol.Step).result


def test_a_null_value_is_not_an_absent_one() -> None:
    request = msgspec.json.decode(b'{"result":null}', type=protocol.CompleteRequest)
    assert bytes(request.result) == b"null"


def test_fields_of_a_newer_release_are_ignored() -> None:
    assert msgspec.json.decode(b'{"attempts":[],"news":1}', type=protocol.ClaimResponse).attempts == []


def test_names_on_the_wire_are_camel_case_and_the_class_is_called_class() -> None:
    failure = protocol.Failure(type="T", message="m", failure_class="infra")
    assert msgspec.json.decode(msgspec.json.encode(failure)) == {"type": "T", "message": "m", "class": "infra"}
