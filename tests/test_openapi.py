"""The one OpenAPI document: it is valid, and both listeners do what it says."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gate import Gate, environment, wait_for
from office import API
from openapi_spec_validator import OpenAPIV31SpecValidator
from wire import ask, request

SEED = "20261125"
# For each operation, beside those that the document's limits lead to; the routes are the same on every database.
EXAMPLES = {"sqlite": "12", "postgresql": "4"}
# Ids may have slashes in them. So below a member's or studio's path there is always one more member or studio,
# and those paths take more methods than the document can say.
CONFIG = "".join(
    f"""\
[[operations]]
include-path = "{API}/{path}"
checks = {{ allow_header_conformance.enabled = false, unsupported_method.enabled = false }}
"""
    for path in ("studios/{studio_id}/keys", "members/{member_id}/codes")
)
PUBLIC = ("/checkin-validation", "/member-validation", "/healthz")
WEBHOOK = "/webhook"
NOT_HERE = {
    f"{API}/members/bulk": "its lines are no JSON document; see test_bulk",
    f"{API}/events": "it waits for what happens",
}
# The document cannot say which plans, members and studios there are, so that what it allows may be refused.
NO_CHECKS = "positive_data_acceptance"


@pytest.fixture(scope="module")
def document(served: Gate) -> dict[str, Any]:
    """As it is served."""
    with served.office("viewer") as client:
        content: dict[str, Any] = client.get("/openapi.json").json()
    return content


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """OpenAPI 3.1, every schema and reference in it included."""
    assert document["openapi"].startswith("3.1.")
    errors = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in
              OpenAPIV31SpecValidator(document).iter_errors()]  # fmt: skip
    assert errors == []


def test_operations_have_names_and_words(document: dict[str, Any]) -> None:
    """Each has an id of its own, a summary, and says which errors it has."""
    found = [
        operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "servers"
    ]
    assert len({operation["operationId"] for operation in found}) == len(found) > 25
    for operation in found:
        assert operation["summary"]
        for status, response in operation["responses"].items():
            if status >= "400" and operation["operationId"] != "checkin_validation" and "x-role" in operation:
                assert list(response["content"]) == ["application/problem+json"], (operation["operationId"], status)


def conforms(gate: Gate, folder: Path, document: dict[str, Any], url: str, *options: str) -> None:
    """Whether a listener does what the document says; the report has the calls that showed otherwise."""
    file, config = folder / "openapi.json", folder / "schemathesis.toml"
    file.write_text(json.dumps(document), "utf-8")
    config.write_text(CONFIG, "utf-8")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", str(file)]
    command += ["--url", url, "--phases", "examples,coverage,fuzzing", "--seed", SEED]
    command += ["--max-examples", EXAMPLES[gate.database.engine.name]]
    command += ["--exclude-checks", NO_CHECKS, "--warnings", "off", "--no-color", "--continue-on-failure"]
    command += [argument for path in NOT_HERE for argument in ("--exclude-path", path)]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment(), cwd=folder, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and " 0 selected" not in done.stdout, done.stdout
    assert '"a request failed"' not in gate.log.read_text("utf-8")


def test_the_admin_listener_conforms(served: Gate, tmp_path: Path, document: dict[str, Any]) -> None:
    """Hostile calls to every route: no 5xx, answers as described, wrong data and methods refused."""
    with served.office() as client:
        authorization = f"Authorization: {client.headers['authorization']}"
    conforms(
        served, tmp_path, document, f"http://127.0.0.1:{served.admin_port}", "-H", authorization,
        *(argument for path in (*PUBLIC, WEBHOOK) for argument in ("--exclude-path", path)),
    )  # fmt: skip


def test_the_public_listener_conforms(served: Gate, tmp_path: Path, document: dict[str, Any]) -> None:
    """The same for the platform's side, over TLS."""
    conforms(
        served, tmp_path, document, f"https://localhost:{served.port}", "--tls-verify", str(served.cert),
        "-H", f"X-API-Key: {served.keys['s1']}",
        *(argument for path in PUBLIC for argument in ("--include-path", path)),
    )  # fmt: skip


def test_webhooks_conform(served: Gate, tmp_path: Path, document: dict[str, Any]) -> None:
    """The same with a key for them."""
    token = secrets.token_urlsafe(24)
    served.cli("key", "add", "s1", "--kind", "webhook", "--key-stdin", input=token)
    wait_for(lambda: ask(served, request(b"", key=token, path=WEBHOOK)).status == 400, "the key is unknown", served)
    conforms(
        served, tmp_path, document, f"https://localhost:{served.port}", "--tls-verify", str(served.cert),
        "-H", f"X-API-Key: {token}", "--include-path", WEBHOOK,
    )  # fmt: skip
