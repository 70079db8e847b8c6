"""A report as JUnit XML, which continuous integration systems read."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from guestgate import clock
from guestgate.probe.report import Finding, Report, Verdict


def document(report: Report) -> bytes:
    """The XML. Consequences are skipped tests: each cause is one failure. Notes are passed tests with output."""
    counts = {
        "tests": str(len(report.findings)),
        "failures": str(report.counts[Verdict.FAILED]),
        "errors": "0",
        "skipped": str(report.counts[Verdict.CONSEQUENCE]),
        "time": f"{report.seconds:.3f}",
    }
    suites = Element("testsuites", {"name": "guestgate probe", **counts})
    started_at = clock.iso(report.started_at).removesuffix("Z")  # the schema knows no offsets
    suite = SubElement(suites, "testsuite", {"name": report.url, "timestamp": started_at, **counts})
    for finding in report.findings:
        name = f"{finding.clause.id}: {finding.clause.title}"
        case = SubElement(suite, "testcase", {"classname": "guestgate.probe", "name": name, "time": "0"})
        match finding.verdict:
            case Verdict.FAILED:
                SubElement(case, "failure", {"message": finding.received, "type": "contract"}).text = _told(finding)
            case Verdict.CONSEQUENCE:
                because = f" because {finding.because.id} failed" if finding.because else ""
                SubElement(case, "skipped", {"message": f"failed{because}"})
            case _:
                SubElement(case, "system-out").text = _told(finding)
    indent(suites)
    xml: bytes = tostring(suites, "utf-8", xml_declaration=True)
    return xml


def _told(finding: Finding) -> str:
    return (
        f"sent:\n{finding.sent}\nreceived:\n{finding.received}\n"
        f"rests on: {finding.clause.rests_on} ({finding.clause.section})"
    )
