"""Commands about trust: key, verify, export.

`key` and `verify --local` work on this computer's PENSTOCK_HOME, with no server running.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from penstock.cli import looking, machine
from penstock.cli.session import Session, columns, git, session
from penstock.errors import IntegrityError, StoppedError, UsageError

key = typer.Typer(help="The keys that attestations are signed with.", no_args_is_help=True)


@key.command("show")
def key_show(ctx: typer.Context) -> None:
    """Print the public key that verifies what this server signs now, as PEM."""
    from penstock.build.trust.signing import Keys

    here = session(ctx)
    current = Keys(machine.state_folder()).current()
    here.data("key", asdict(current))
    if not here.json:
        here.out.write(current.pem)
    here.note(f"Its id is {current.id}, in use since {current.since[:19]}.")


@key.command("list")
def key_list(ctx: typer.Context) -> None:
    """List every key whose signatures are believed."""
    from penstock.build.trust.signing import Keys

    here = session(ctx)
    trusted = Keys(machine.state_folder()).trusted()
    here.data("keys", [asdict(one) for one in trusted])
    rows = [
        (
            one.id[:16],
            f"since {one.since[:19]}",
            f"until {one.until[:19]}" if one.until else "signs now",
        )
        for one in trusted
    ]
    for line in columns(rows):
        here.write(line)


@key.command("rotate")
def key_rotate(
    ctx: typer.Context, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Make a new key; the old one still proves what it has signed."""
    from penstock.build.trust.signing import Keys

    here = session(ctx)
    here.confirm("Sign with a new key from now on?", yes=yes)
    keys = Keys(machine.state_folder())
    with machine.records_here() as records, records.change(machine.person_here()) as change:
        old = [one.id for one in keys.trusted() if one.until is None]
        made = keys.make(now=change.now)
        change.journal("key.rotated", {"key": made.id, "retired": old})
    here.write(f"key {made.id[:16]} signs from now on", mark="passed")
    here.data("key", asdict(made))
    here.following("penstock key show, and give it to those who verify")


def verify(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="NAME@VERSION; NAME for all of it.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every version of every model.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it again and compare.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Rebuild with this PENSTOCK_SEED instead.", min=0)
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="This computer's home; no server needed.")
    ] = False,
) -> int:
    """Prove that a version is what was built and signed; exit 7 when it is not."""
    here = session(ctx)
    rebuild = rebuild or seed is not None
    if (name is None) is not all_ or (local and rebuild):
        raise UsageError(
            "PS145",
            "One version, one model or --all is verified; a rebuild needs the server.",
            hint="penstock verify NAME@VERSION [--rebuild]",
        )
    if all_:
        wanted = [(one, None) for one in (_names_here() if local else _names(here))]
    else:
        wanted = [named(str(name))]
    passed = True
    told: list[Any] = []
    for model, number in wanted:
        result = (
            _verified_here(model, number)
            if local
            else _verified(here, here.client().verify(model, number, rebuild=rebuild, seed=seed))
        )
        told.append({"model": model, "number": number, **result})
        passed = passed and bool(result["passed"])
        _show(here, result)
    here.data("verification", told)
    # A build that comes out otherwise is no broken proof: the version is what was signed.
    return 0 if passed else (StoppedError if rebuild else IntegrityError).exit_code


def build(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="NAME@VERSION; without, this commit's.")
    ] = None,
    *,
    twice: Annotated[bool, typer.Option("--twice", help="A second time, and compare.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="The second time with this PENSTOCK_SEED.", min=0)
    ] = None,
) -> int:
    """Build a version a second time on the server, and say how far the two lie apart."""
    here = session(ctx)
    if not twice:
        raise UsageError(
            "PS145",
            "A push builds; what can be asked for is a second build, to be compared.",
            hint="penstock push, or: penstock build --twice",
        )
    wanted = name or _of_this_commit(here)
    if named(wanted)[1] is None:
        raise _no_version(wanted)
    return verify(ctx, wanted, all_=False, rebuild=True, seed=seed, local=False)


def _of_this_commit(here: Session) -> str:
    from penstock.config import read

    commit = git("rev-parse", "HEAD")
    if commit is None:
        raise UsageError(
            "PS060", "Here is no commit.", hint="Name one: penstock build --twice NAME@VERSION."
        )
    model = read(Path("penstock.toml")).model.name
    run = here.client().run(looking.run_of_commit(here.client(), model, commit))
    return f"{model}@{run['number']}"


def export(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    *,
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    signed: Annotated[
        bool, typer.Option("--signed", help="With an OpenSSF model signature.")
    ] = False,
) -> None:
    """Write a version with its lock, documents and keys into a folder."""
    here = session(ctx)
    model, number = named(name)
    if number is None:
        raise _no_version(name)
    if to.exists():
        raise UsageError(
            "PS146", f"{to} is there already.", hint="Name a folder that does not exist."
        )
    with here.client().export(model, number, signed=signed) as archive:
        count = unpack(archive, to)
    here.write(f"{model}@{number}: {count} files in {to}, each with its digest", mark="passed")
    here.data("export", {"model": model, "number": number, "folder": str(to), "files": count})
    here.following(f"read {to / 'README.md'}")


def unpack(archive: IO[bytes], to: Path) -> int:
    """Unpack an export next to `to`, check every digest, and give it its name; count the files.

    Raises
    ------
    IntegrityError
        PS147, the archive is not whole, or holds what no export holds.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        try:
            with tarfile.open(fileobj=archive, mode="r|") as members:
                for member in members:
                    if not member.isfile():
                        raise _no_export(f"{member.name} is no file")
                    members.extract(member, draft, filter="data")
        except (tarfile.TarError, OSError, http.client.HTTPException) as error:
            raise _no_export(str(error) or type(error).__name__) from error
        count = _checked_sums(draft)
        draft.chmod(0o755)
        draft.rename(to)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return count


def _checked_sums(folder: Path) -> int:
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise _no_export("its end is missing")
    lines = (line.partition("  ") for line in sums.read_text("utf-8").splitlines())
    stated = {name: digest for digest, _, name in lines}
    there = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path != sums
    }
    if stated != there:
        wrong = sorted({name for name, _ in stated.items() ^ there.items()})
        raise _no_export(f"{', '.join(wrong[:5])} did not arrive as sent")
    return len(there)


def named(name: str) -> tuple[str, int | None]:
    """Split ``credit-default@12``.

    Examples
    --------
    >>> named("credit-default@12"), named("credit-default")
    (('credit-default', 12), ('credit-default', None))
    """
    model, at, number = name.partition("@")
    if not at:
        return model, None
    if not number.isascii() or not number.isdigit():
        raise _no_version(name)
    return model, int(number)


def _no_version(name: str) -> UsageError:
    return UsageError(
        "PS145", f'"{name}" names no version.', hint="Write it like credit-default@12."
    )


def _no_export(why: str) -> IntegrityError:
    return IntegrityError(
        "PS147",
        f"The export did not arrive whole: {why}. Nothing was written.",
        hint="Ask again; if it stays so, look at control.log on the server.",
    )


def _names(here: Session) -> list[str]:
    client = here.client()
    names: list[str] = []
    after: str | None = None
    while True:
        page = client.list(after=after)
        names += [str(one["name"]) for one in page["models"]]
        after = page["next"]
        if not after:
            return names


def _verified(here: Session, asked: dict[str, Any]) -> dict[str, Any]:
    """Wait until a verification has ended; say what is done meanwhile."""
    client = here.client()
    said, pause_s = "", 0.05
    while asked["state"] not in ("passed", "failed"):
        if asked["doing"] != said:
            said = asked["doing"]
            here.note(f"{asked['progress'] or 0:4.0%}  {said}")
        time.sleep(pause_s)  # the work goes on in the server; there is no event to wait for
        pause_s = min(1.0, pause_s * 1.5)
        asked = client.verification(asked["id"])
    return dict(asked["result"])


def _names_here() -> list[str]:
    from penstock.records import runs

    with machine.records_here() as records, records.read() as connection:
        return runs.names(connection)


def _verified_here(model: str, number: int | None) -> dict[str, Any]:
    from penstock.pipeline.proving import Places
    from penstock.pipeline.verifying import report
    from penstock.wiring import store

    home = machine.state_folder()
    with machine.records_here() as records:
        places = Places(home, records, store(home))
        found = report(places, model, number, lambda _share, _doing: None)
    return dict(found)


def _show(here: Session, result: dict[str, Any]) -> None:
    for version, findings in result.get("versions", {}).items():
        here.write(version)
        width = max(len(one["subject"]) for one in findings)
        for one in findings:
            text = f"{one['subject']:<{width}}  {one['text']}"
            here.write(text, mark="passed" if one["sound"] else "failed")
    for one in result.get("files", ()):
        if one["outcome"] != "same":
            mark = "warning" if one["outcome"] == "explained" else "failed"
            here.write(f"{one['path']}  {one['text']}", mark=mark)
    for metric, one in result.get("quality", {}).items():
        values = f"{one['recorded']:.6g}, again {one['again']:.6g}"
        here.write(f"{metric:<14}  {values}, difference {one['difference']:+.3g}")
    here.write(result["sentence"], mark="passed" if result["passed"] else "failed")
    if result.get("hint"):
        here.write(f"  Try: {result['hint']}")


COMMANDS = (build, verify, export)
