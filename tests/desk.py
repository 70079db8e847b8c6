"""Somebody at the desk for tests: signed in to the admin listener's pages as a browser would be."""

from __future__ import annotations

import re

import httpx
from gate import Gate

from guestgate.tokens import Role


class Desk(httpx.Client):
    """A client that keeps cookies, follows no redirect by itself, and sends forms as the pages' own."""

    def __init__(self, gate: Gate, role: str | None = None, *, token: str | None = None) -> None:
        """To be entered: signed in with a token of this role, or with this token; None: a stranger."""
        super().__init__(base_url=gate.admin_url, timeout=30)
        self.csrf = ""
        self._token = token or (gate.token(Role(role), name=f"the {role}") if role else None)

    def __enter__(self) -> Desk:
        """Sign in."""
        super().__enter__()
        if self._token is not None:
            answer = self.post("/login", data={"token": self._token})
            assert answer.status_code == 303, answer.text
            found = re.search(r'name="csrf" value="(\w+)"', self.get("/members").text)
            assert found is not None
            self.csrf = found[1]
        return self

    def submit(self, path: str, **fields: str) -> httpx.Response:
        """Send a form of a page."""
        return self.post(path, data={"csrf": self.csrf, **fields})

    def page(self, path: str, **parameters: str) -> str:
        """A page's text; fails the test unless there is one."""
        answer = self.get(path, params=parameters or None)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        return answer.text
