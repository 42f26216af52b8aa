"""The documentation says what the product does: whatever has a name is written down."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from typer.main import get_command

from penstock.cli.commands import app
from penstock.cli.glossary import explained
from penstock.config import ServerSettings, json_schema, parse
from penstock.inference.gateway.paths import Action, understand
from penstock.web import api
from penstock.web.control import Control

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "penstock"
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
MAX_LINES = 500

HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[str]:
    return [match[2] for match in HEADING.finditer(prose(page))]


def slug(heading: str) -> str:
    """The anchor of a heading, as the site's generator and code forges make it."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"\s", "-", plain)


def section(page: str, heading: str) -> str:
    """The text from a heading to the next of its kind."""
    _, found, rest = text_of(page).partition(f"\n{heading}\n")
    assert found, f"docs/{page} has no {heading!r}"
    return rest.split(f"\n{heading.split()[0]} ", maxsplit=1)[0]


def blocks(language: str) -> list[tuple[str, str]]:
    """Every block of code in a language, each with the page that has it."""
    return [
        (page.relative_to(ROOT).as_posix(), match[2])
        for page in PAGES
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
        if match[1] == language
    ]


# ---- error codes ---------------------------------------------------------------------------


def codes_in_use() -> set[str]:
    used: set[str] = set()
    for path in SRC.rglob("*.py"):
        used |= set(re.findall(r"\bPS[0-9]{3}\b", path.read_text(encoding="utf-8")))
    return used


def documented_codes() -> dict[str, str]:
    """Each code's heading and page, ``PS203 git failed`` in ``build.md``."""
    found: list[tuple[str, str]] = []
    for page in sorted((DOCS / "errors").glob("*.md")):
        found += [(h, page.name) for h in headings(page) if re.match(r"PS[0-9]{3}\b", h)]
    counts = Counter(heading.split()[0] for heading, _ in found)
    assert max(counts.values()) == 1, f"more than one heading: {counts.most_common(3)}"
    return dict(found)


def test_every_error_code_has_one_heading_and_every_heading_a_code_in_use() -> None:
    documented = {heading.split()[0] for heading in documented_codes()}

    assert documented == codes_in_use()


def test_the_index_of_errors_lists_every_code_with_its_page() -> None:
    expected = [
        f'| <a id="{code.lower()}"></a>[{code}]({page}#{slug(heading)}) | {title} |'
        for heading, page in sorted(documented_codes().items())
        for code, _, title in [heading.partition(" ")]
    ]

    rows = [row for row in text_of("errors/index.md").splitlines() if row.startswith("| <a")]

    assert set(rows) - set(expected) == set(), "rows of docs/errors/index.md that lead nowhere"
    assert set(expected) - set(rows) == set(), "rows that docs/errors/index.md lacks"
    assert rows == expected, "the rows stand in the order of their codes"


# ---- commands ------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Every command by its whole name, ``audit verify``."""

    def walk(group: Any, name: str) -> Iterator[tuple[str, Any]]:
        for word, command in group.commands.items():
            whole = f"{name} {word}".strip()
            if hasattr(command, "commands"):
                yield from walk(command, whole)
            else:
                yield whole, command

    return dict(walk(get_command(app), ""))


def options(command: Any) -> set[str]:
    return {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    }


def root_options() -> set[str]:
    return {"--help", *options(get_command(app))}


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_command_is_documented_with_every_option(name: str) -> None:
    described = section("cli.md", f"### penstock {name}")

    missing = [
        option
        for option in options(commands()[name])
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", described)
    ]

    assert not missing


def test_the_command_line_page_describes_no_command_that_is_not_there() -> None:
    described = {h for h in headings(DOCS / "cli.md") if h.startswith("penstock ")}

    assert described == {f"penstock {name}" for name in commands()}


def test_every_global_option_is_documented() -> None:
    described = section("cli.md", "## Everywhere")

    assert not [o for o in root_options() - {"--help"} if f"`{o}" not in described]


def spoken_commands() -> list[tuple[str, str]]:
    """What a reader is told to type: `penstock …` in shell blocks and in running text."""
    told = [
        (page, line.split(" #")[0].strip().removeprefix("$ "))
        for page, block in blocks("sh")
        for line in block.splitlines()
    ]
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        told += [(name, words) for words in re.findall(r"`(penstock [^`]+)`", prose(page))]
    return [(page, line) for page, line in told if line.startswith("penstock ")]


def test_every_command_that_the_documentation_tells_exists_with_its_options() -> None:
    known = commands()
    told = spoken_commands()
    wrong: list[str] = []
    for page, line in told:
        words = shlex.split(line.replace("…", "x"))[1:]
        two, one = " ".join(words[:2]), (words or [""])[0]
        command = known.get(two) or known.get(one)
        placeholder = one.isupper()  # `penstock COMMAND --help`
        group = any(name.startswith(f"{one} ") for name in known) and len(words) == 1
        flags = {word.split("=")[0] for word in words if word.startswith("-")}
        allowed = root_options() | (options(command) if command else set[str]())
        named = command or group or placeholder or one in allowed
        if not named or not flags <= allowed:
            wrong.append(f"{page}: {line}")

    assert len(told) > 50
    assert not wrong


# ---- settings ------------------------------------------------------------------------------


def keys_by_block() -> dict[str, list[str]]:
    """The keys of each block of penstock.toml, from its JSON Schema."""
    schema = json_schema()
    found: dict[str, list[str]] = {}
    for block, described in cast("dict[str, Any]", schema["properties"]).items():
        text = str(described)
        name = re.findall(r"#/\$defs/(\w+)", text)[0]
        heading = f"[[{block}]]" if described.get("type") == "array" else f"[{block}]"
        found[heading] = list(schema["$defs"][name]["properties"])
    return found


@pytest.mark.parametrize(("block", "keys"), sorted(keys_by_block().items()))
def test_every_key_of_a_block_of_penstock_toml_is_documented(block: str, keys: list[str]) -> None:
    described = section("penstock-toml.md", f"## {block}")

    assert keys
    assert [key for key in keys if f"| `{key}` |" not in described] == []


def test_no_block_of_penstock_toml_is_documented_that_is_not_there() -> None:
    described = {h for h in headings(DOCS / "penstock-toml.md") if h.startswith("[")}

    assert described == set(keys_by_block())


def test_every_key_of_server_toml_is_documented() -> None:
    schema = ServerSettings.model_json_schema()
    keys: list[str] = []
    for key, described in schema["properties"].items():
        inner = re.findall(r"#/\$defs/(\w+)", str(described))
        keys += [f"{key}.{k}" for k in schema["$defs"][inner[0]]["properties"]] if inner else [key]

    described = section("server.md", "## server.toml")

    assert [key for key in keys if f"| `{key}` |" not in described] == []


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_every_toml_block_of_the_documentation_can_be_read(page: str, block: str) -> None:
    if block.startswith("# server.toml"):
        import tomllib

        ServerSettings.model_validate(tomllib.loads(block))
        return
    whole = block if "[model]" in block else f'[model]\nname = "credit-default"\n{block}'
    if "[evaluate]" not in whole:
        whole += '\n[evaluate]\ndata = "data/holdout.csv"\nlabel = "default"\n'

    assert parse(whole).model.name == "credit-default"


def test_the_smallest_penstock_toml_has_five_lines() -> None:
    (smallest,) = [block for page, block in blocks("toml") if page == "README.md"]

    assert len(smallest.splitlines()) == 5
    assert parse(smallest).evaluate is not None


# ---- addresses, words ----------------------------------------------------------------------


def test_every_route_of_the_api_is_documented() -> None:
    router = api.routes(cast("Control", None))  # routes are only made here, none is asked
    public = {
        f"| {method} | `{route.path}` |"
        for route in cast("list[Any]", router.routes)
        for method in route.methods
        if route.path.startswith("/api/")
    }

    assert len(public) > 20
    rows = set(re.findall(r"^\| [A-Z]+ \| `/api/[^`]*` \|", text_of("http-api.md"), re.MULTILINE))
    assert rows == public


def test_every_path_of_the_gateway_that_is_documented_is_understood_with_its_method() -> None:
    told = section("http-api.md", "## Predictions, 8421")
    rows = re.findall(r"^\| (GET|POST) \| (.+?) \|", told, re.MULTILINE)
    actions: set[str] = set()
    for method, cell in rows:
        for path in re.findall(r"`([^`]+)`", cell):
            call = understand(path.replace("NAME", "credit-default"))
            assert call is not None, path
            assert method in call.methods
            actions.add(call.action.value)

    assert actions == {action.value for action in Action}


def test_the_glossary_page_says_what_the_command_line_explains() -> None:
    page = text_of("glossary.md")

    assert [w for w, means in explained().items() if f"| {w} | {means} |" not in page] == []


# ---- links, length -------------------------------------------------------------------------


def links() -> list[tuple[Path, str]]:
    return [
        (page, first or second)
        for page in PAGES
        for first, second in LINK.findall(prose(page))
        if not (first or second).startswith(("https://", "http://", "mailto:"))
    ]


def test_every_internal_link_leads_to_a_file_and_a_heading_that_are_there() -> None:
    broken: list[str] = []
    for page, link in links():
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{page.relative_to(ROOT)}: {link}")
        elif anchor and anchor not in {slug(heading) for heading in headings(target)}:
            broken.append(f"{page.relative_to(ROOT)}: {link} has no such heading")

    assert len(links()) > 30
    assert not broken


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w./-]+\.md\b", site))

    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_no_source_file_has_more_than_500_lines() -> None:
    lengths = {
        path.relative_to(SRC).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in SRC.rglob("*.py")
    }

    assert len(lengths) > 50
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}
