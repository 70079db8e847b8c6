"""The probe's clauses about member validation: who keeps them passes, and each fault is found on its own clause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import endpoints
import pytest
from authority import Authority, Issued
from endpoints import ALLOWED, DATA, DENIED, KEY, MEMBER, MEMBER_PATH, PATH, AnswersMembers, Endpoint, serving
from gate import Gate

from guestgate.contract import BadBodyError, parse_validation
from guestgate.probe import members, run
from guestgate.probe.calls import Caller
from guestgate.probe.clauses import CLAUSES, MEMBER_CLAUSES, asked
from guestgate.probe.report import Finding, Report, Verdict
from guestgate.probe.target import Card, MemberValidation, Target

# A probe wants answers in time.
pytestmark = pytest.mark.alone

ORDER = [clause.id for clause in asked(of_members=True)]
CALLS = 8


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the probe is told to trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Issued:
    """A certificate for localhost."""
    return authority.issue("localhost")


def probe(url: str, ca: Path, member: str | None = MEMBER, calls: int = CALLS) -> Report:
    """Probe both addresses of an endpoint of this process."""
    desk = MemberValidation.of(url.replace(PATH, MEMBER_PATH), member)
    return asyncio.run(run.probe(Target.of(url, KEY, ALLOWED, DENIED, ca, desk), calls))


def ask(url: str, ca: Path, member: str | None = MEMBER, calls: int = CALLS) -> list[Finding]:
    """Ask only about member validation: the other clauses know nothing of it."""
    desk = MemberValidation.of(url.replace(PATH, MEMBER_PATH), member)
    target = Target.of(url, KEY, ALLOWED, DENIED, ca, desk)

    async def found() -> list[Finding]:
        async with Caller(replace(target, url=desk.url), set()) as caller:
            return [finding async for finding in members.findings(desk, KEY, caller, calls)]

    return asyncio.run(found())


def verdicts(findings: Iterable[Finding], verdict: Verdict) -> set[str]:
    """The clauses with this verdict."""
    return {finding.clause.id for finding in findings if finding.verdict is verdict}


def received(findings: Iterable[Finding], clause: str) -> str:
    """What came back for a clause."""
    return next(finding.received for finding in findings if finding.clause.id == clause)


@pytest.mark.embedded
def test_an_endpoint_that_keeps_the_contract_passes(authority: Authority, certificate: Issued) -> None:
    """Every clause is asked, in the catalogue's order, and no data of the member is repeated where all is well."""
    with serving(Endpoint(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert report.holds and verdicts(report.findings, Verdict.NOTE) == {"reachable"}
    assert [finding.clause.id for finding in report.findings] == ORDER
    assert len(ORDER) == len(CLAUSES) + len(MEMBER_CLAUSES) and ORDER[-1] == CLAUSES[-1].id
    assert "Nowak" not in json.dumps(report.as_dict())
    (measured,) = (f.figures for f in report.findings if f.clause.id == "member-in-time")
    assert measured is not None and measured.calls == CALLS


@pytest.mark.embedded
def test_without_a_member_it_is_asked_about_nobody(authority: Authority, certificate: Issued) -> None:
    """What only a member's data can show is noted as not asked; and nobody is asked after often."""
    after: list[str] = []

    class Listens(Endpoint):
        def judges_question(self, content: bytes) -> int:
            with suppress(BadBodyError):
                after.append(parse_validation(content))
            return super().judges_question(content)

    with serving(Listens(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file, None, calls=50)
    assert report.holds and verdicts(report.findings, Verdict.NOTE) == {"reachable", "member-known", "member-data"}
    assert [finding.clause.id for finding in report.findings] == ORDER
    assert len(set(after)) == 1 and len(after) <= 12


def test_guestgate_keeps_the_contract(served: Gate) -> None:
    """The real server, over TLS: a member with all there is to know, a suspended one, and the throttle not met."""
    with served.office("operator") as office:
        profile = {"first_name": "Zoë", "last_name": "Nowak", "date_of_birth": "1952-05-04", "gender": "FEMALE"}
        for member, more in {"zoë": {}, "gone": {"status": "suspended"}}.items():
            fields = {"plan": "free", "country": "de", **profile, **more}
            assert office.put(f"/members/{member}", json=fields).status_code == 201
    url, cards = served.url, (Card("zoë", 1), Card("gone", 2))
    at = url.replace(PATH, MEMBER_PATH)
    for member in ("zoë", None):
        target = Target.of(url, served.keys["s1"], *cards, served.cert, MemberValidation.of(at, member))
        report = asyncio.run(run.probe(target, 20))
        assert report.holds, [finding for finding in report.findings if finding.verdict is not Verdict.PASSED]
    assert received(report.findings, "member-unknown") == "404"
    gone = Target.of(url, served.keys["s1"], *cards, served.cert, MemberValidation.of(at, "gone"))
    report = asyncio.run(run.probe(gone, 4))
    assert verdicts(report.findings, Verdict.FAILED) == {"member-known"}
    assert verdicts(report.findings, Verdict.CONSEQUENCE) == {"member-data", "member-unknown-properties"}


@dataclass(frozen=True)
class Broken:
    """An endpoint with one fault, the clauses that have to find it, and what fails as a consequence."""

    clause: str
    endpoint: Callable[[], Endpoint]
    consequences: set[str] = field(default_factory=set)
    name: str = ""
    member: str | None = MEMBER
    calls: int = CALLS

    def __str__(self) -> str:
        return f"{self.clause}: {self.name or getattr(self.endpoint, '__name__', '')}"


def body_of(call: endpoints.Call) -> Any:
    """A question's JSON; None where it is none."""
    try:
        return json.loads(call.content)
    except ValueError:
        return None


def on(status: int, test: Callable[[Any, endpoints.Call], bool]) -> Callable[[], Endpoint]:
    """An endpoint with another status for those questions, sent by POST with the key, that pass a test."""

    def differs(call: endpoints.Call) -> int | None:
        proper = call.command == "POST" and call.headers.get("x-api-key") == KEY
        return status if proper and test(body_of(call), call) else None

    return lambda: AnswersMembers(differs)


def on_key(status: int, key: str | None) -> Callable[[], Endpoint]:
    """An endpoint with another status for a key, None for none at all."""
    return lambda: AnswersMembers(lambda call: status if call.headers.get("x-api-key") == key else None)


def tells(**different: Any) -> Callable[[], Endpoint]:
    """An endpoint that tells something else of the member."""
    return lambda: endpoints.TellsOfMembers({**DATA, **different})


def after_nobody(body: Any, _: endpoints.Call) -> bool:
    """Asked after who does not exist."""
    id_ = body.get("aggregatorId") if isinstance(body, dict) else None
    return isinstance(id_, str) and id_.startswith("nobody")


def is_no_id(body: Any, _: endpoints.Call) -> bool:
    """Whether an aggregatorId is there and no text."""
    fields = body[0] if isinstance(body, list) else body or {}
    return isinstance(body, list) or not isinstance(fields.get("aggregatorId", ""), str)


IDS = {clause.id for clause in MEMBER_CLAUSES}
POSITIVE = {"member-data", "member-unknown-properties"}  # they ask for a yes, so they fail with the plain question
ELSEWHERE = IDS - {"member-no-redirect", "member-stricter", "member-in-time"}
KEYS = {"member-key-missing": None, "member-key-empty": "", "member-key-wrong": KEY[:-1]}
BARE = "application/json"

FAMILY = [
    Broken("member-no-redirect", endpoints.LeadsMembersElsewhere, ELSEWHERE),
    Broken(
        "member-charset",
        on(415, lambda _, call: call.headers["content-type"] != BARE),
        {"member-known", "member-unknown", *POSITIVE},
    ),
    Broken("member-known", on(404, lambda body, _: MEMBER in str(body)), POSITIVE, name="not found"),
    Broken("member-known", endpoints.HangsUpOnMembers, IDS - {"member-known"}),
    Broken("member-unknown", on(403, after_nobody), name="403"),
    Broken("member-unknown", on(200, after_nobody), name="everybody is known"),
    Broken("member-unknown", on(500, after_nobody), name="a fault"),
    Broken(
        "member-unknown", on(500, after_nobody), {"member-charset", "member-unknown-properties"}, "no member", None
    ),
    *[Broken(clause, on_key(status, key), name=str(status)) for clause, key in KEYS.items() for status in (200, 500)],
    Broken("member-post-only", lambda: AnswersMembers(lambda call: 200 if call.command == "PUT" else None)),
    Broken("member-body-not-json", on(500, lambda body, _: body is None), name="a fault"),
    Broken("member-body-field-missing", on(200, lambda body, _: body == {}), name="somebody"),
    Broken("member-body-field-missing", on(500, lambda body, _: body == {}), name="a fault"),
    Broken("member-body-wrong-type", on(200, is_no_id), name="somebody"),
    Broken("member-body-wrong-type", on(500, is_no_id), name="a fault"),
    Broken("member-unknown-properties", on(400, lambda body, _: isinstance(body, dict) and len(body) > 1)),
    Broken("member-in-time", endpoints.ThinksLongOfMembers, calls=2),
    *[
        Broken("member-data", endpoint, name=name)
        for name, endpoint in {
            "no id": lambda: endpoints.TellsOfMembers({"firstName": "Zoë", "lastName": "Nowak"}),
            "an empty id": tells(aggregatorId=""),
            "an id that is a number": tells(aggregatorId=1042),
            "a German date": tells(dateOfBirth="04.05.1952"),
            "an instant": tells(dateOfBirth="1952-05-04T00:00:00Z"),
            "no such day": tells(dateOfBirth="1952-02-30"),
            "a gender in small letters": tells(gender="female"),
            "a country's name": tells(country="Germany"),
            "a country in small letters": tells(country="de"),
            "null": tells(email=None),
            "an empty text": tells(city=""),
            "a number": tells(zipCode=10115),
            "a list": lambda: endpoints.TellsOfMembers([DATA]),
            "nothing": lambda: endpoints.TellsOfMembers(""),
        }.items()
    ],
]


@pytest.mark.embedded
@pytest.mark.parametrize("broken", FAMILY, ids=str)
def test_each_fault_is_found_on_its_own_clause(broken: Broken, authority: Authority, certificate: Issued) -> None:
    """Other clauses fail at most as its consequences, and no key is shown."""
    with serving(broken.endpoint(), endpoints.context(certificate)) as url:
        findings = ask(url, authority.file, broken.member, broken.calls)
    found = {finding.clause.id: (finding.verdict.value, finding.received) for finding in findings}
    assert list(found) == [clause.id for clause in MEMBER_CLAUSES]
    assert verdicts(findings, Verdict.FAILED) == {broken.clause}, found
    assert verdicts(findings, Verdict.CONSEQUENCE) == broken.consequences, found
    assert {finding.because.id for finding in findings if finding.because} <= {broken.clause}
    assert KEY not in json.dumps([finding.as_dict() for finding in findings])


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("endpoint", "clause", "consequences"),
    [
        (endpoints.LeadsMembersElsewhere, "member-no-redirect", ELSEWHERE),
        (endpoints.HangsUpOnMembers, "member-known", IDS - {"member-known"}),
        (endpoints.RepeatsToMembers, "key-not-echoed", set()),
    ],
)
def test_a_fault_there_is_none_of_check_ins(
    endpoint: Callable[[], Endpoint], clause: str, consequences: set[str], authority: Authority, certificate: Issued
) -> None:
    """The whole probe: what is said of check-ins stays as it is; a key that is repeated counts wherever that is."""
    with serving(endpoint(), endpoints.context(certificate)) as url:
        report = probe(url, authority.file)
    assert [finding.clause.id for finding in report.findings] == ORDER and not report.holds
    assert verdicts(report.findings, Verdict.FAILED) == {clause}
    assert verdicts(report.findings, Verdict.CONSEQUENCE) == consequences


@pytest.mark.embedded
def test_each_field_is_told_of_without_its_value(authority: Authority, certificate: Issued) -> None:
    """All that is wrong at once, a line each."""
    with serving(tells(gender="X", phonePrivate=None, birthName="ignored")(), endpoints.context(certificate)) as url:
        findings = ask(url, authority.file)
    assert received(findings, "member-data").splitlines() == [
        "gender should be MALE, FEMALE or UNISEX",
        "phonePrivate is null; what is not known is left out",
    ]


@pytest.mark.embedded
def test_what_fails_nothing_is_noted(authority: Authority, certificate: Issued) -> None:
    """Odd questions that are taken, and a member without a name."""
    lenient = on(200, lambda _, call: call.headers["content-type"] == "text/plain")
    nameless = lambda: endpoints.TellsOfMembers({"aggregatorId": "m"})  # noqa: E731
    for endpoint, clause in ((lenient, "member-stricter"), (nameless, "member-data")):
        with serving(endpoint(), endpoints.context(certificate)) as url:
            findings = ask(url, authority.file)
        assert verdicts(findings, Verdict.NOTE) == {clause}
        assert {finding.verdict for finding in findings} == {Verdict.NOTE, Verdict.PASSED}


@pytest.mark.embedded
def test_no_key_goes_to_a_server_that_is_not_trusted(tmp_path: Path, authority: Authority) -> None:
    """Neither address is asked anything, and every clause says why."""
    with serving(Endpoint(), endpoints.context(Authority(tmp_path).issue("localhost"))) as url:
        report = probe(url, authority.file)
    assert verdicts(report.findings, Verdict.FAILED) == {"certificate-chain"}
    assert verdicts(report.findings, Verdict.CONSEQUENCE) >= IDS
