"""The body rules of a check-in, without a server."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestgate.contract import BadBodyError, parse_checkin

MAX = 2**63 - 1
DEEP = 8_000

GOOD: dict[str, tuple[bytes, tuple[str, int]]] = {
    "the platform's example": (
        b'{"aggregatorId": "<your-id>", "customerId": 293123213}',
        ("<your-id>", 293123213),
    ),
    "other order": (b'{"customerId":7,"aggregatorId":"m"}', ("m", 7)),
    "white space around and inside": (b' \r\n\t{ "aggregatorId" : "m" ,\n"customerId" : 1 }\r\n ', ("m", 1)),
    "smallest customer": (b'{"aggregatorId":"m","customerId":1}', ("m", 1)),
    "largest customer": (b'{"aggregatorId":"m","customerId":9223372036854775807}', ("m", MAX)),
    "one character": (b'{"aggregatorId":"x","customerId":1}', ("x", 1)),
    "255 characters": (b'{"aggregatorId":"%b","customerId":1}' % (b"x" * 255), ("x" * 255, 1)),
    "255 characters of two bytes": (
        b'{"aggregatorId":"%b","customerId":1}' % ("ü" * 255).encode(),
        ("ü" * 255, 1),
    ),
    "255 characters outside the basic plane": (
        b'{"aggregatorId":"%b","customerId":1}' % ("😀" * 255).encode(),
        ("😀" * 255, 1),
    ),
    "255 characters as escapes": (b'{"aggregatorId":"%b","customerId":1}' % (rb"\u00fc" * 255), ("ü" * 255, 1)),
    "digits are a text too": (b'{"aggregatorId":"12345","customerId":1}', ("12345", 1)),
    "white space is not trimmed": (b'{"aggregatorId":" m ","customerId":1}', (" m ", 1)),
    "case is kept": (b'{"aggregatorId":"Mm","customerId":1}', ("Mm", 1)),
    "escaped characters": (rb'{"aggregatorId":"a\"\\\/\u0041","customerId":1}', ('a"\\/A', 1)),
    "escaped names": (rb'{"\u0061ggregatorId":"m","customer\u0049d":1}', ("m", 1)),
    "a surrogate pair, escaped": (rb'{"aggregatorId":"\ud83d\ude00","customerId":1}', ("😀", 1)),
    "a surrogate pair in an unknown property": (rb'{"aggregatorId":"m","customerId":1,"x":"\uD83D\uDE00"}', ("m", 1)),
    "an escaped backslash before u0000": (rb'{"aggregatorId":"\\u0000","customerId":1}', (r"\u0000", 1)),
    "unknown properties": (
        b'{"aggregatorId":"m","customerId":1,"studioId":4,"a":null,"b":[1.5,true,{"c":""}],"":{}}',
        ("m", 1),
    ),
    "unknown names that differ in case": (
        b'{"aggregatorId":"m","customerId":1,"CustomerId":2,"AGGREGATORID":3}',
        ("m", 1),
    ),
    "equal names in different objects": (
        b'{"aggregatorId":"m","customerId":1,"x":{"customerId":2,"y":{"customerId":3}}}',
        ("m", 1),
    ),
    "equal names in the objects of a list": (b'{"aggregatorId":"m","customerId":1,"x":[{"a":1},{"a":1}]}', ("m", 1)),
    "an unknown number beyond 64 bits": (b'{"aggregatorId":"m","customerId":1,"x":%d}' % 2**200, ("m", 1)),
    "an unknown number beyond floats": (b'{"aggregatorId":"m","customerId":1,"x":1e999,"y":-1E+999}', ("m", 1)),
    "an unknown number of 5,000 digits": (b'{"aggregatorId":"m","customerId":1,"x":%b}' % (b"9" * 5_000), ("m", 1)),
    "the words NaN and Infinity as texts": (b'{"aggregatorId":"NaN","customerId":1,"x":"-Infinity"}', ("NaN", 1)),
    "a hundred brackets": (b'{"aggregatorId":"m","customerId":1,"x":%b1%b}' % (b"[" * 100, b"]" * 100), ("m", 1)),
}

CUSTOMER = {
    "missing": b'{"aggregatorId":"m"}',
    "null": b'{"aggregatorId":"m","customerId":null}',
    "zero": b'{"aggregatorId":"m","customerId":0}',
    "minus zero": b'{"aggregatorId":"m","customerId":-0}',
    "negative": b'{"aggregatorId":"m","customerId":-1}',
    "2**63": b'{"aggregatorId":"m","customerId":9223372036854775808}',
    "2**64 + 1": b'{"aggregatorId":"m","customerId":%d}' % (2**64 + 1),
    "-2**63": b'{"aggregatorId":"m","customerId":%d}' % -(2**63),
    "4,000 digits": b'{"aggregatorId":"m","customerId":%b}' % (b"1" * 4_000),
    "16,000 digits": b'{"aggregatorId":"m","customerId":%b}' % (b"1" * 16_000),
    "minus 16,000 digits": b'{"aggregatorId":"m","customerId":-%b}' % (b"1" * 16_000),
    "true": b'{"aggregatorId":"m","customerId":true}',
    "false": b'{"aggregatorId":"m","customerId":false}',
    "a whole float": b'{"aggregatorId":"m","customerId":1.0}',
    "an exponent": b'{"aggregatorId":"m","customerId":1e3}',
    "a float beyond floats": b'{"aggregatorId":"m","customerId":1e999}',
    "a string": b'{"aggregatorId":"m","customerId":"1"}',
    "a list": b'{"aggregatorId":"m","customerId":[1]}',
    "an object": b'{"aggregatorId":"m","customerId":{"id":1}}',
    "wrong case": b'{"aggregatorId":"m","customerid":1}',
    "snake case": b'{"aggregatorId":"m","customer_id":1}',
    "only inside another object": b'{"aggregatorId":"m","x":{"customerId":1}}',
}

AGGREGATOR = {
    "missing": b'{"customerId":1}',
    "null": b'{"aggregatorId":null,"customerId":1}',
    "empty": b'{"aggregatorId":"","customerId":1}',
    "256 characters": b'{"aggregatorId":"%b","customerId":1}' % (b"x" * 256),
    "256 characters as escapes": b'{"aggregatorId":"%b","customerId":1}' % (rb"\u00fc" * 256),
    "an integer": b'{"aggregatorId":5,"customerId":1}',
    "true": b'{"aggregatorId":true,"customerId":1}',
    "a list": b'{"aggregatorId":["m"],"customerId":1}',
    "an object": b'{"aggregatorId":{},"customerId":1}',
    "wrong case": b'{"aggregatorID":"m","customerId":1}',
}

WHOLE = {
    "nothing": b"",
    "white space": b" \n",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a text": b'"aggregatorId"',
    "an empty list": b"[]",
    "a list with the object": b'[{"aggregatorId":"m","customerId":1}]',
    "an empty object": b"{}",
    "a list of pairs": b'[["aggregatorId","m"],["customerId",1]]',
    "two objects": b'{"aggregatorId":"m","customerId":1}{"aggregatorId":"m","customerId":1}',
    "two objects on two lines": b'{"aggregatorId":"m","customerId":1}\n{"aggregatorId":"m","customerId":1}\n',
    "something behind it": b'{"aggregatorId":"m","customerId":1} x',
    "a NUL behind it": b'{"aggregatorId":"m","customerId":1}\0',
    "a NUL before it": b'\0{"aggregatorId":"m","customerId":1}',
    "cut off": b'{"aggregatorId":"m","customerId":1',
    "a form": b"aggregatorId=m&customerId=1",
    "single quotes": b"{'aggregatorId':'m','customerId':1}",
    "names without quotes": b'{aggregatorId:"m",customerId:1}',
    "a comma too many": b'{"aggregatorId":"m","customerId":1,}',
    "a comment": b'{"aggregatorId":"m","customerId":1 /* x */}',
    "a leading zero": b'{"aggregatorId":"m","customerId":01}',
    "a plus sign": b'{"aggregatorId":"m","customerId":+1}',
    "hexadecimal": b'{"aggregatorId":"m","customerId":0x1}',
    "an underscore": b'{"aggregatorId":"m","customerId":1_000}',
    "Arabic digits": '{"aggregatorId":"m","customerId":١}'.encode(),
    "no-break space": '{"aggregatorId":"m",\u00a0"customerId":1}'.encode(),
    "a line break in a text": b'{"aggregatorId":"m\n","customerId":1}',
    "a broken escape": rb'{"aggregatorId":"\x41","customerId":1}',
    "a broken \\u": rb'{"aggregatorId":"\u00g1","customerId":1}',
    "a \\u with signs": rb'{"aggregatorId":"\u+041","customerId":1}',
}

DUPLICATES = {
    "customerId": b'{"aggregatorId":"m","customerId":1,"customerId":2}',
    "the same customerId": b'{"aggregatorId":"m","customerId":1,"customerId":1}',
    "aggregatorId": b'{"aggregatorId":"m","customerId":1,"aggregatorId":"n"}',
    "escaped": rb'{"aggregatorId":"m","customerId":1,"\u0063ustomerId":2}',
    "unknown": b'{"aggregatorId":"m","customerId":1,"x":1,"x":1}',
    "the empty name": b'{"aggregatorId":"m","customerId":1,"":1,"":1}',
    "nested": b'{"aggregatorId":"m","customerId":1,"x":[{"y":{"a":1,"a":2}}]}',
}

NUMBERS = {
    "NaN": b'{"aggregatorId":"m","customerId":NaN}',
    "Infinity": b'{"aggregatorId":"m","customerId":Infinity}',
    "-Infinity": b'{"aggregatorId":"m","customerId":-Infinity}',
    "unknown NaN": b'{"aggregatorId":"m","customerId":1,"x":NaN}',
    "unknown Infinity": b'{"aggregatorId":"m","customerId":1,"x":Infinity}',
    "unknown -Infinity, nested": b'{"aggregatorId":"m","customerId":1,"x":[{"y":-Infinity}]}',
    "NaN alone": b"NaN",
}

CHARACTERS = {
    "an escaped NUL": rb'{"aggregatorId":"m\u0000","customerId":1}',
    "an escaped NUL alone": rb'{"aggregatorId":"\u0000","customerId":1}',
    "a raw NUL": b'{"aggregatorId":"m\0","customerId":1}',
    "an escaped NUL in an unknown property": rb'{"aggregatorId":"m","customerId":1,"x":"\u0000"}',
    "an escaped NUL in a name": rb'{"aggregatorId":"m","customerId":1,"\u0000":1}',
    "an escaped NUL in a nested name": rb'{"aggregatorId":"m","customerId":1,"x":[[{"y\u0000":1}]]}',
    "a raw NUL in an unknown property": b'{"aggregatorId":"m","customerId":1,"x":"\0"}',
    "a high surrogate": rb'{"aggregatorId":"\ud83d","customerId":1}',
    "a low surrogate": rb'{"aggregatorId":"\ude00","customerId":1}',
    "surrogates in the wrong order": rb'{"aggregatorId":"\ude00\ud83d","customerId":1}',
    "a surrogate in an unknown property": rb'{"aggregatorId":"m","customerId":1,"x":["\uD800"]}',
    "a surrogate in a name": rb'{"aggregatorId":"m","customerId":1,"\udfff":1}',
    "a surrogate as bytes": b'{"aggregatorId":"\xed\xa0\xbd","customerId":1}',
    "a surrogate pair as bytes": b'{"aggregatorId":"\xed\xa0\xbd\xed\xb8\x80","customerId":1}',
}

ENCODINGS = {
    "a byte order mark": b'\xef\xbb\xbf{"aggregatorId":"m","customerId":1}',
    "UTF-16": '{"aggregatorId":"m","customerId":1}'.encode("utf-16"),
    "UTF-16, little end first, no mark": '{"aggregatorId":"m","customerId":1}'.encode("utf-16-le"),
    "UTF-16, big end first, no mark": '{"aggregatorId":"m","customerId":1}'.encode("utf-16-be"),
    "UTF-32": '{"aggregatorId":"m","customerId":1}'.encode("utf-32"),
    "Latin-1": '{"aggregatorId":"Jürgen","customerId":1}'.encode("latin-1"),
    "an overlong NUL": b'{"aggregatorId":"\xc0\x80","customerId":1}',
    "beyond Unicode": b'{"aggregatorId":"\xf4\x90\x80\x80","customerId":1}',
    "a character cut in two": b'{"aggregatorId":"m\xc3","customerId":1}',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}

NESTING = {
    "lists": b"[" * DEEP + b"]" * DEEP,
    "lists, open": b"[" * 16_000,
    "objects, open": b'{"a":' * 3_000,
    "in customerId": b'{"aggregatorId":"m","customerId":%b%b}' % (b"[" * DEEP, b"]" * DEEP),
}


@pytest.mark.parametrize(("body", "pair"), GOOD.values(), ids=GOOD)
def test_a_good_body_is_read(body: bytes, pair: tuple[str, int]) -> None:
    """Both fields come out exactly as they were sent."""
    assert parse_checkin(body) == pair


@pytest.mark.parametrize("body", CUSTOMER.values(), ids=CUSTOMER)
def test_customer_id_is_an_integer_from_1_to_63_bits(body: bytes) -> None:
    """No strings, floats, booleans, zero, negatives or numbers that are too large."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", AGGREGATOR.values(), ids=AGGREGATOR)
def test_aggregator_id_is_a_text_of_1_to_255_characters(body: bytes) -> None:
    """Neither empty nor too long nor anything but a text."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", WHOLE.values(), ids=WHOLE)
def test_the_body_is_one_json_object(body: bytes) -> None:
    """Other JSON values, several values, and what only looks like JSON are refused."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", DUPLICATES.values(), ids=DUPLICATES)
def test_no_property_comes_twice(body: bytes) -> None:
    """Two readers could take different ones, so neither is taken."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", NUMBERS.values(), ids=NUMBERS)
def test_nan_and_infinity_are_no_numbers(body: bytes) -> None:
    """JSON does not know them, wherever they stand."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", CHARACTERS.values(), ids=CHARACTERS)
def test_no_nul_and_no_half_surrogate(body: bytes) -> None:
    """Characters that databases and encoders choke on stay outside, wherever they stand."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", ENCODINGS.values(), ids=ENCODINGS)
def test_the_body_is_plain_utf8(body: bytes) -> None:
    """Other encodings, marks and malformed sequences are refused."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("body", NESTING.values(), ids=NESTING)
def test_deep_nesting_is_a_bad_body_and_not_a_fault(body: bytes) -> None:
    """Thousands of brackets end in the ordinary error, not in an exhausted stack."""
    with pytest.raises(BadBodyError):
        parse_checkin(body)


@pytest.mark.parametrize("text", ["", r"\u00fc"], ids=["plain", "with escapes"])
def test_deep_nesting_in_an_unknown_property_is_no_fault(text: str) -> None:
    """How deep a reader can look depends on its stack; too deep is a bad body, and never anything else."""
    body = f'{{"aggregatorId":"m{text}","customerId":1,"x":{"[" * DEEP}{"]" * DEEP}}}'.encode()
    try:
        assert parse_checkin(body)[1] == 1
    except BadBodyError as error:
        assert str(error)


@pytest.mark.parametrize(
    "body",
    [
        b'{"aggregatorId":"hunter2-secret","customerId":"hunter2-secret"}',
        b'{"aggregatorId":["hunter2-secret"],"customerId":1}',
        b'{"hunter2-secret":1,"hunter2-secret":2}',
        b'{"aggregatorId":"m","customerId":1} hunter2-secret',
        rb'{"aggregatorId":"hunter2-secret\u0000","customerId":1}',
        b"hunter2-secret",
        b"hunter2-secret\xff",
    ],
)
def test_the_error_is_a_sentence_that_does_not_repeat_the_body(body: bytes) -> None:
    """What was sent may be personal; it must not come back in an error or end up in a log."""
    with pytest.raises(BadBodyError) as caught:
        parse_checkin(body)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# Hostile bodies are mostly almost right ones.
fragments = st.sampled_from(
    [
        *(b'{"aggregatorId":', b'"m"', b',"customerId":', b"1", b"}", b"{", b"[", b"]", b'"', b",", b":", b"\\"),
        *(b"\\u0000", b"\\ud83d", b"\\ude00", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-", b"0", b"true"),
        *(b"\0", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\xbd", b'"customerId":2', b"[" * 3000, b" ", b"\n"),
    ]
)


def is_pair(result: object) -> bool:
    """Whether this is a member's id and a customer's number within their bounds."""
    match result:
        case (str(aggregator_id), int(customer_id)) if not isinstance(customer_id, bool):
            aggregator_id.encode("utf-8")
            return 1 <= len(aggregator_id) <= 255 and "\0" not in aggregator_id and 1 <= customer_id <= MAX
    return False


@given(
    st.binary() | st.lists(fragments, max_size=14).map(b"".join) | json_values.map(lambda v: json.dumps(v).encode())
)
@example(b'{"aggregatorId":"m","customerId":1}')
@example(b"[" * DEEP)
def test_any_bytes_are_a_check_in_or_a_bad_body(body: bytes) -> None:
    """There is no third way out, whatever comes."""
    try:
        result = parse_checkin(body)
    except BadBodyError:
        return
    assert is_pair(result)


# Every character there is, except those that the rules keep out.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
harmless = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(
    aggregator_id=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255
    ),
    customer_id=st.integers(1, MAX),
    unknown=st.dictionaries(texts, harmless, max_size=5),
    as_ascii=st.booleans(),
    indent=st.none() | st.just(2),
    fields_first=st.booleans(),
)
def test_unknown_properties_change_nothing(
    aggregator_id: str,
    customer_id: int,
    unknown: dict[str, object],
    as_ascii: bool,
    indent: int | None,
    fields_first: bool,
) -> None:
    """Whatever else an object holds, before or after, escaped or not: the two fields come out as sent."""
    fields = {"aggregatorId": aggregator_id, "customerId": customer_id}
    others = {name: value for name, value in unknown.items() if name not in fields}
    content = {**fields, **others} if fields_first else {**others, **fields}
    body = json.dumps(content, ensure_ascii=as_ascii, indent=indent).encode()
    assert parse_checkin(body) == (aggregator_id, customer_id)
