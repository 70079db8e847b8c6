"""The pages of statements: months, one month with its sums and adjustments, its file, and closing it."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

from browser import DESK, barriers, chromium, complaints_of
from desk import Desk
from gate import Gate

from guestgate import corrections, visits
from guestgate.tokens import Role
from guestgate.visits import VisitRow


def test_a_month_is_shown_closed_and_adjusted(served: Gate) -> None:
    """By whoever may; only after a word of confirmation; the file has a line each; it prints without the menus."""
    served.members("=1+1,free")
    made = VisitRow(0, "=1+1", "s1", datetime(2026, 1, 5, 12, tzinfo=UTC))
    with served.database.write() as connection:
        visits.add(connection, made)
    with Desk(served, Role.VIEWER) as viewer, Desk(served, Role.ADMIN) as admin:
        assert viewer.get("/statements", params={"month": "2026-01"}).headers["location"] == "/statements/2026-01"
        assert "Close this month" not in viewer.page("/statements/2026-01")
        assert "Close this month" in admin.page("/statements/2026-01")
        assert admin.submit("/statements/2026-01/close").status_code == 422
        assert admin.submit("/statements/2026-02/close", sure="yes").status_code == 409
        answer = admin.submit("/statements/2026-01/close", sure="yes")
        assert (answer.status_code, answer.headers["location"]) == (303, "/statements/2026-01?done=closed")
        with served.database.write() as connection:
            corrections.reverse(connection, made.id, "=not there")
        assert "Close this month" not in admin.page("/statements/2026-01")
        assert "=not there" not in viewer.page("/statements/2026-02")  # its figures come afterwards
        assert "=not there" in viewer.page("/statements/2026-02?whole=yes")
        file = viewer.get("/statements/2026-02/csv")
        assert file.headers["content-disposition"] == 'attachment; filename="statement-2026-02.csv"'
        (row,) = csv.DictReader(file.content.decode("utf-8-sig").splitlines())
        assert (row["visit"], row["payable"], row["why"]) == (made.id, "-1", "'=not there")
        assert (row["member"], row["adjusts"]) == ("'=1+1", "2026-01")
        _look(served, viewer)


def _look(served: Gate, viewer: Desk) -> None:
    """In a browser: nothing keeps people from using it, and on paper there is nothing to click."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": DESK[0], "height": DESK[1]})
        context.add_cookies(
            [{"name": name, "value": value, "url": served.admin_url} for name, value in viewer.cookies.items()]
        )
        page = context.new_page()
        complaints = complaints_of(page)
        for path in ("/statements", "/statements/2026-01", "/statements/2026-02"):
            page.goto(served.admin_url + path)
            page.locator("table").first.wait_for()
            assert barriers(page) == [], path
        page.emulate_media(media="print")
        assert not page.locator("header").is_visible() and page.locator("tfoot").is_visible()
        assert complaints == []
