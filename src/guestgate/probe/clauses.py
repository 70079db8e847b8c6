"""What is asked of an endpoint, clause by clause, in the order in which it is asked.

The platform's own words are few; each clause says which part of docs/CONTRACT.md it rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

THE_CALL = "The call"
THE_CHECKS = "The checks, in this order"
THE_ANSWER = "The answer"
WHO_IS_MEANT = "Who is meant"
MEMBER_VALIDATION = "Member validation"


@dataclass(frozen=True)
class Clause:
    """One demand. ``section`` of docs/CONTRACT.md holds what the sentence ``rests_on`` says in short."""

    id: str
    title: str
    rests_on: str
    section: str


REACHABLE = Clause(
    "reachable",
    "takes connections",
    "The platform calls the registered address from the internet.",
    THE_CALL,
)
PLAIN_HTTP = Clause(
    "plain-http",
    "does not serve plain HTTP",
    "Check-ins travel over HTTPS only; a key that was sent in the clear is everybody's.",
    THE_CALL,
)
TLS_1_2 = Clause(
    "tls-1.2",
    "speaks TLS 1.2",
    "TLS 1.2 or newer: a caller may have nothing newer than 1.2.",
    THE_CALL,
)
TLS_1_3 = Clause(
    "tls-1.3",
    "speaks TLS 1.3",
    "TLS 1.2 or newer: a caller may insist on the newest.",
    THE_CALL,
)
TLS_1_0 = Clause("tls-1.0", "refuses TLS 1.0", "TLS 1.2 or newer: what is older is refused.", THE_CALL)
TLS_1_1 = Clause("tls-1.1", "refuses TLS 1.1", "TLS 1.2 or newer: what is older is refused.", THE_CALL)
CERTIFICATE_CHAIN = Clause(
    "certificate-chain",
    "shows a certificate from a known authority",
    "HTTPS: the platform connects only where the chain leads to an authority it knows.",
    THE_CALL,
)
CERTIFICATE_NAME = Clause(
    "certificate-name",
    "shows a certificate for this host",
    "HTTPS: the certificate has to name the host of the registered address.",
    THE_CALL,
)
CERTIFICATE_DAYS = Clause(
    "certificate-days",
    "shows a certificate that is in force",
    "HTTPS: a certificate outside its days is refused, and then no door opens.",
    THE_CALL,
)
REDIRECT = Clause(
    "no-redirect",
    "answers at this very address",
    "The platform calls the registered address and reads the status there; it follows nobody elsewhere.",
    THE_CALL,
)
CHARSET = Clause(
    "charset",
    "takes a Content-Type with a charset",
    "Every call says Content-Type: application/json; charset=utf-8.",
    THE_CALL,
)
ALLOWED = Clause("allowed", "lets in who may enter, with 200", "200 means: may enter.", THE_CALL)
DENIED = Clause("denied", "refuses who may not, with 403", "403 means: may not enter.", THE_CALL)
KEY_MISSING = Clause(
    "key-missing",
    "refuses a call without a key",
    "X-API-Key alone says which studio is calling; without it nobody is.",
    THE_CHECKS,
)
KEY_EMPTY = Clause(
    "key-empty",
    "refuses a call with an empty key",
    "X-API-Key alone says which studio is calling; an empty one says nothing.",
    THE_CHECKS,
)
KEY_WRONG = Clause(
    "key-wrong",
    "refuses a call with a wrong key",
    "The key on each call is compared with the one from the partner setup, to the letter.",
    THE_CHECKS,
)
POST_ONLY = Clause("post-only", "takes POST only", "The method is POST, and no other is a check-in.", THE_CALL)
NOT_JSON = Clause(
    "body-not-json",
    "refuses a body that is not JSON",
    "The body is a JSON object. Another one is the caller's mistake: neither a yes nor a fault of the endpoint.",
    THE_CHECKS,
)
FIELD_MISSING = Clause(
    "body-field-missing",
    "refuses a body that lacks a field",
    "The body names aggregatorId and customerId, both.",
    THE_CHECKS,
)
WRONG_TYPE = Clause(
    "body-wrong-type",
    "refuses a body with a wrong type",
    "aggregatorId is a text and customerId an integer.",
    THE_CHECKS,
)
STRICTER = Clause(
    "stricter",
    "is strict about odd calls",
    "The platform sends nothing of the kind, so this is advice: what nobody means is best refused with 400.",
    THE_CHECKS,
)
UNKNOWN_PROPERTIES = Clause(
    "unknown-properties",
    "ignores properties it does not know",
    "The platform may add to the body at any time; what is new is ignored.",
    THE_CHECKS,
)
CUSTOMER_64_BIT = Clause(
    "customer-64-bit",
    "takes customer ids of 64 bits",
    "customerId is an integer up to 2⁶³−1.",
    THE_CHECKS,
)
REUSE = Clause(
    "reuse",
    "keeps connections open",
    "The 750 ms include connecting, so the platform uses its connections again.",
    THE_CALL,
)
IN_TIME = Clause(
    "in-time",
    "answers within 750 ms, one call at a time",
    "After 750 ms the call is cancelled and the desk sees a communication error.",
    THE_CALL,
)
IN_TIME_TOGETHER = Clause(
    "in-time-together",
    "answers within 750 ms, 32 calls at a time",
    "After 750 ms the call is cancelled, however many others are waiting: several doors share a studio's evening.",
    THE_CALL,
)
NOT_ECHOED = Clause(
    "key-not-echoed",
    "repeats no key in an answer",
    "Of the answer only the status is read; a key in it can only end up where it should not, such as in a log.",
    THE_ANSWER,
)

MEMBER_REDIRECT = Clause(
    "member-no-redirect",
    "answers at this very address",
    "The platform asks at the registered address and follows nobody elsewhere.",
    MEMBER_VALIDATION,
)
MEMBER_CHARSET = Clause(
    "member-charset",
    "takes a Content-Type with a charset",
    "Every call says Content-Type: application/json; charset=utf-8, as for check-ins.",
    MEMBER_VALIDATION,
)
MEMBER_KNOWN = Clause(
    "member-known", "knows who may register, with 200", "200 means: may register.", MEMBER_VALIDATION
)
MEMBER_DATA = Clause(
    "member-data",
    "words a member's data as the contract does",
    "200 has the aggregatorId that counts from then on, and what is known of the member; the rest is left out.",
    MEMBER_VALIDATION,
)
MEMBER_UNKNOWN = Clause(
    "member-unknown", "knows nobody by an id of nobody's, with 404", "404 means: may not register.", MEMBER_VALIDATION
)
MEMBER_KEY_MISSING = Clause(
    "member-key-missing",
    "refuses a question without a key",
    "The same key as for check-ins; here it guards what is known of people.",
    MEMBER_VALIDATION,
)
MEMBER_KEY_EMPTY = Clause(
    "member-key-empty",
    "refuses a question with an empty key",
    "The same key as for check-ins; an empty one says nothing.",
    MEMBER_VALIDATION,
)
MEMBER_KEY_WRONG = Clause(
    "member-key-wrong",
    "refuses a question with a wrong key",
    "The same key as for check-ins, compared to the letter.",
    MEMBER_VALIDATION,
)
MEMBER_POST_ONLY = Clause(
    "member-post-only", "takes POST only", "The method is POST, and no other is a question.", MEMBER_VALIDATION
)
MEMBER_NOT_JSON = Clause(
    "member-body-not-json",
    "refuses a body that is not JSON",
    "The same body rules as for check-ins: what is no JSON object is the caller's mistake.",
    MEMBER_VALIDATION,
)
MEMBER_FIELD_MISSING = Clause(
    "member-body-field-missing",
    "refuses a body that lacks its field",
    "The body names aggregatorId; without one nobody is asked about.",
    MEMBER_VALIDATION,
)
MEMBER_WRONG_TYPE = Clause(
    "member-body-wrong-type",
    "refuses a body with a wrong type",
    "aggregatorId is a text, a member's id or a code.",
    MEMBER_VALIDATION,
)
MEMBER_STRICTER = Clause(
    "member-stricter",
    "is strict about odd questions",
    "The platform sends nothing of the kind, so this is advice: what nobody means is best refused with 400.",
    MEMBER_VALIDATION,
)
MEMBER_UNKNOWN_PROPERTIES = Clause(
    "member-unknown-properties",
    "ignores properties it does not know",
    "The platform may add to the body at any time; what is new is ignored.",
    MEMBER_VALIDATION,
)
MEMBER_IN_TIME = Clause(
    "member-in-time",
    "answers within 750 ms, one question at a time",
    "The same time as for a check-in; then the desk sees a communication error.",
    MEMBER_VALIDATION,
)

CLAUSES = (
    *(REACHABLE, PLAIN_HTTP, TLS_1_2, TLS_1_3, TLS_1_0, TLS_1_1),
    *(CERTIFICATE_CHAIN, CERTIFICATE_NAME, CERTIFICATE_DAYS),
    *(REDIRECT, CHARSET, ALLOWED, DENIED, KEY_MISSING, KEY_EMPTY, KEY_WRONG, POST_ONLY),
    *(NOT_JSON, FIELD_MISSING, WRONG_TYPE, STRICTER, UNKNOWN_PROPERTIES, CUSTOMER_64_BIT),
    *(REUSE, IN_TIME, IN_TIME_TOGETHER, NOT_ECHOED),
)
# Asked as well where an address for member validation is given.
MEMBER_CLAUSES = (
    *(MEMBER_REDIRECT, MEMBER_CHARSET, MEMBER_KNOWN, MEMBER_DATA, MEMBER_UNKNOWN),
    *(MEMBER_KEY_MISSING, MEMBER_KEY_EMPTY, MEMBER_KEY_WRONG, MEMBER_POST_ONLY),
    *(MEMBER_NOT_JSON, MEMBER_FIELD_MISSING, MEMBER_WRONG_TYPE, MEMBER_STRICTER, MEMBER_UNKNOWN_PROPERTIES),
    MEMBER_IN_TIME,
)


def asked(*, of_members: bool) -> tuple[Clause, ...]:
    """Every clause of a probe in its order; whether a key is repeated is known only at the end."""
    return (*CLAUSES[:-1], *MEMBER_CLAUSES, CLAUSES[-1]) if of_members else CLAUSES
