"""Every question that the product asks of PostgreSQL, asked of a record of millions of decisions.

Fills a throw-away server, asks all that door, commands and admin API ask, and judges what the server did for it,
by its own account: rows that were read for nothing, tables that were read as a whole, millions that were sorted.
What may do so has its reason printed below it; anything else is a fault, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import time

from asked import questions
from cluster import Cluster
from grown import SETTINGS, grow
from plan_report import judge
from plan_watch import SETTINGS as WATCHED


def run(decisions: int, only: str) -> bool:
    """Whether all is well."""
    started = time.monotonic()
    cluster = Cluster(*SETTINGS, *WATCHED)
    try:
        grown = grow(cluster, decisions)
        size = cluster.execute("SELECT pg_database_size(current_database())", grown.url.rpartition("/")[2])[0][0]
        print(
            f"{decisions} decisions, {grown.members} members, {grown.studios} studios: {int(str(size)) / 1e9:.1f} GB"
        )
        print(f"    filled in {time.monotonic() - started:.0f} s", flush=True)
        findings = judge(cluster, grown, [question for question in questions(grown) if only in question.name])
    finally:
        cluster.close()
    for found in findings:
        widest = found.widest
        how = f"{widest.pages:7} pages: {widest.words:.150}" if widest else "nothing"
        print(f"{'ok   ' if found.is_well else 'FAULT'} {found.name:36} {found.ms:9.1f} ms {how}")
        if found.walks:
            print(f"      because {found.walks}")
        elif found.faults:
            for fault, statement in found.faults.items():
                print(f"      {fault}: {' '.join(statement.split()):.300}")
    faults = sum(not found.is_well for found in findings)
    print(f"{len(findings)} kinds of questions, {faults} with faults, in {time.monotonic() - started:.0f} s")
    return not faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=5_000_000)
    parser.add_argument("--only", default="", metavar="WORDS", help="only questions whose name has these words in it")
    chosen = parser.parse_args()
    raise SystemExit(0 if run(chosen.decisions, chosen.only) else 1)
