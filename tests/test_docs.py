"""The documents: what they promise exists, what exists they tell, and their first examples run."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from gate import environment, free_port

from guestgate.admin.shapes import Event
from guestgate.cli import app
from guestgate.metrics import DoorMetrics
from guestgate.model import Reason
from guestgate.probe.clauses import CLAUSES, MEMBER_CLAUSES
from guestgate.settings import Settings
from guestgate.starter import CONFIG
from guestgate.tokens import Role

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = "\n".join(path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
PROBE = (ROOT / "docs/PROBE.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, ...]]:
    """Every command's words, such as ("studio", "add")."""
    main = typer.main.get_command(app)
    for name, command in main.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        yield from ((name, inner) for inner in below) if below else [(name,)]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_documented(words: tuple[str, ...]) -> None:
    """Each command is named in the documents, alone or in a list after its noun."""
    noun, *verb = words
    told = re.findall(rf"guestgate {noun}\b[^\n|]*", DOCUMENTS) + re.findall(rf"`{noun} [^`]*`", DOCUMENTS)
    assert told
    assert not verb or any(re.search(rf"\b{verb[0]}\b", line) for line in told), words


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    """Each setting stands in the table of settings and in the file that init writes."""
    row = re.search(
        rf"^\| [^|]*`{name}`[^|]* \| ([^|]*?) \|", (ROOT / "docs/OPERATING.md").read_text("utf-8"), re.MULTILINE
    )
    assert row
    default = Settings.model_fields[name].default
    assert row[1].strip("`") == (
        "unset" if default is None else str(default).lower() if default is False else str(default)
    )
    assert name in CONFIG


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_documented_in_order(reason: Reason) -> None:
    """The contract's table has each reason, in order of precedence."""
    told = re.findall(r"^\| `(\w+)` \| (?:denied|\*\*allowed\*\*|undecided)", DOCUMENTS, re.MULTILINE)
    assert told == [one.value for one in Reason]
    assert reason.value in told


def test_the_example_in_the_documents_is_the_one_that_is_tested() -> None:
    """Keeping an application's database in step: the same lines in both places."""
    example = (ROOT / "examples" / "keep_in_step.py").read_text("utf-8")
    assert f"```python\n{example}```" in (ROOT / "docs" / "API.md").read_text("utf-8")


def test_every_metric_is_documented() -> None:
    """Each metric that the door has stands in the table, and each role and type of event in its own."""
    told = set(re.findall(r"`(guestgate_\w+)", DOCUMENTS))
    for metric in DoorMetrics().collect():
        assert told & {metric.name, f"{metric.name}_total"}, metric.name
    for role in Role:
        assert f"| `{role.value}` |" in DOCUMENTS
    for kind in get_args(Event.model_fields["type"].annotation):
        assert f"| `{kind}` |" in DOCUMENTS


def test_every_clause_of_the_probe_is_documented() -> None:
    """In the order in which they are asked; and each rests on a section that the contract has."""
    table = PROBE.partition("## The clauses")[2].partition("\n\nWhat failed")[0]
    assert re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) == [clause.id for clause in (*CLAUSES, *MEMBER_CLAUSES)]
    sections = re.findall(
        r"^## (.*?)(?: \(\*platform\*\))?$", (ROOT / "docs/CONTRACT.md").read_text("utf-8"), re.MULTILINE
    )
    assert {clause.section for clause in (*CLAUSES, *MEMBER_CLAUSES)} <= set(sections)


@pytest.mark.quiet
def test_the_example_of_the_probe(tmp_path: Path) -> None:
    """Its first endpoint word for word, on a free port: the faults it tells of, one mending after the other."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PROBE, re.MULTILINE | re.DOTALL)
    endpoint, decide = (text for language, text in blocks if language == "python")
    shown = [text for language, text in blocks if language == ""]
    commands = next(text for language, text in blocks if language == "sh")
    (mended,) = re.findall(r"`(self\.headers\.get_content_type.*?)`", PROBE)
    ending = "\nstatus=$?; kill %1; wait %1; exit $status"
    script = commands.replace(
        "printf", "until (: < /dev/tcp/localhost/9443) 2> /dev/null; do sleep 0.1; done\nprintf"
    )
    port = str(free_port())

    def probed(endpoint: str, status: int) -> list[str]:
        (tmp_path / "endpoint.py").write_text(endpoint.replace("9443", port), "utf-8")
        done = subprocess.run(
            ["bash", "-uc", script.replace("9443", port) + ending],
            cwd=tmp_path,
            env=environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    def rows(lines: list[str]) -> list[str]:
        return [" ".join(line.split()) for line in lines if line.startswith(("failed", "consequence"))]

    first = probed(endpoint, 1)
    assert rows(first)[: len(rows(shown[0].splitlines()))] == rows(shown[0].splitlines())
    assert len(rows(first)) == 5
    assert "received application/json; charset=utf-8: 415" in first
    endpoint = endpoint.replace('self.headers["Content-Type"] != "application/json"', mended)
    assert rows(probed(endpoint, 1)) == rows(shown[1].splitlines())
    endpoint = re.sub(r"^def decide.*?\n\n\n", lambda _: f"{decide}\n\n", endpoint, flags=re.MULTILINE | re.DOTALL)
    assert any(line.startswith(shown[2].strip()) for line in probed(endpoint, 0))


def test_links_lead_somewhere() -> None:
    """Files that the documents link to exist."""
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), (path.name, target)


# Two quickstarts that begin at the same instant may choose the same port.
@pytest.mark.alone
def test_the_two_commands(tmp_path: Path) -> None:
    """The README's first two commands: a clone, and scripts/quickstart in it."""
    clone, start = BLOCKS[0].splitlines()
    script = f"{clone.replace('REPOSITORY', str(ROOT))}\n{start} --for 3\n"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ check-ins: [1-9]\d* allowed, \d+ denied, 0 errors", done.stdout), done.stdout


def test_a_real_installation(tmp_path: Path) -> None:
    """The README's installation and its curl line, word for word, on a free port."""
    serving = "until curl -sk https://localhost:8443/healthz >/dev/null; do sleep 0.2; done"
    script = f"{BLOCKS[1].replace('guestgate sandbox', f'{serving}; guestgate sandbox', 1)}\n{BLOCKS[2]}"
    port = str(free_port())
    env = environment() | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KEY": secrets.token_urlsafe(24),
        "GUESTGATE_PORT": port,
        "GUESTGATE_ADMIN_PORT": str(free_port()),
    }
    ending = "\nstatus=$?; kill %1; wait %1; exit $status"
    done = subprocess.run(
        ["bash", "-uc", script.replace("localhost:8443", f"localhost:{port}") + ending],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The desk sees: open" in done.stdout
    assert '"decision":"allowed","reason":"reentry"' in done.stdout
    assert re.search(r"allowed +ok +berlin-1 +m-1042", done.stdout)


@pytest.mark.alone
def test_the_wheel_alone_runs_quickstart(tmp_path: Path) -> None:
    """What is needed is in the wheel: its files alone, without the source tree, run the quickstart."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT],
        check=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "wheel")
    env = environment() | {"PYTHONPATH": str(tmp_path / "wheel")}
    where = subprocess.run(
        [sys.executable, "-c", "import guestgate; print(guestgate.__file__)"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "guestgate", "quickstart", "--for", "3"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 errors" in done.stdout
