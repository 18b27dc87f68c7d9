"""Write docs/reference/options/ from conf/: every group, its options, their keys, defaults and comments.

    python docs/options.py

Reads the YAML files and the docstrings of the classes that they name; imports nothing of ganexp. tests/test_docs.py fails when
the pages differ from conf/.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PAGES = ROOT / "docs" / "reference" / "options"
PICK_ANY = ("regularizer", "augment", "constraint", "anneal", "metrics", "callbacks", "logger")
NOTE = "<!-- Written by docs/options.py from conf/. Change conf/ and run the script again. -->"
LONGEST = 60  # characters of a default that are shown

Row = tuple[str, str, str]  # full key, default, comment


def pages() -> dict[Path, str]:
    """The text of every page, by its path."""
    groups = list_groups()
    made = {PAGES / f"{group.replace('/', '_')}.md": group_page(group) for group in groups}
    return {PAGES / "index.md": index_page(groups), **made}


def list_groups() -> list[str]:
    """All groups, in the order of the defaults in conf/config.yaml; nested ones behind the group they belong to."""
    text = (CONF / "config.yaml").read_text(encoding="utf-8")
    order = re.findall(r"^  - ([a-z]+):", text, re.M)
    nested = [str(folder.relative_to(CONF)) for folder in sorted((CONF / "model").iterdir()) if folder.is_dir()]
    return [group for top in order for group in [top, *[n for n in nested if n.startswith(f"{top}/")]]]


def index_page(groups: list[str]) -> str:
    lines = [
        NOTE,
        "",
        "# Options",
        "",
        "Choose an option with `GROUP=OPTION`, or `GROUP=[A,B]` in the groups that take any number of options. Set any key with",
        "`KEY=VALUE`. Run `python -m ganexp --cfg job` to print the composed config without running it.",
        "",
        "| group | takes | default | options |",
        "| --- | --- | --- | --- |",
    ]
    defaults = default_options()
    for group in groups:
        names = " ".join(f"[`{name}`]({group.replace('/', '_')}.md#{slug(name)})" for name in option_names(group))
        takes = "any" if group in PICK_ANY else "one"
        lines.append(f"| `{group}` | {takes} | {defaults.get(group, 'the model’s')} | {names} |")
    lines += ["", "## Top-level keys", "", *table(top_level_rows())]
    return "\n".join(lines) + "\n"


def default_options() -> dict[str, str]:
    """What conf/config.yaml chooses, as code."""
    chosen: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]:
        for group, option in entry.items() if isinstance(entry, dict) else ():
            names = option if isinstance(option, list) else [option] if option else []
            chosen[group] = " ".join(f"`{name}`" for name in names) or "none"
    return chosen


def top_level_rows() -> list[Row]:
    return [row for row in rows_of(CONF / "config.yaml", "") if not row[0].startswith(("hydra", "defaults"))]


def option_names(group: str) -> list[str]:
    names = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    return [name for name in names if (group, name) != ("model", "gan")]  # gan is what the others share


def group_page(group: str) -> str:
    many = group in PICK_ANY
    usage = f"{group}=[A,B]" if many else f"{group}=NAME"
    lines = [NOTE, "", f"# {group}", "", f"`{usage}`. [All groups](index.md)", ""]
    if group == "model":
        lines += ["Every option but `gmmn` and `vae` also has the keys of [gan](#gan).", ""]
    if group == "data":
        lines += ["Every option also has these keys:", "", *table(rows_of(CONF / "dataset.yaml", "data")), ""]
    names = option_names(group) + (["gan"] if group == "model" else [])
    for name in names:
        lines += option_section(group, name)
    return "\n".join(lines).rstrip() + "\n"


def option_section(group: str, name: str) -> list[str]:
    file = CONF / group / f"{name}.yaml"
    text = file.read_text(encoding="utf-8")
    lines = [f"## {name}", ""]
    if group == "experiment":
        return [*lines, "```yaml", text.rstrip(), "```", ""]
    if comment := leading_comment(text):
        lines += [comment, ""]
    for target in dict.fromkeys(re.findall(r"_target_: (ganexp\.\S+?)[,}\s]", text)):
        if told := first_paragraph(target):
            lines += [f"`{target}`: {told}", ""]
    if rows := rows_of(file, "" if "@package _global_" in text else group.replace("/", ".")):
        lines += [*table(rows), ""]
    return lines


def leading_comment(text: str) -> str:
    """The comment above the first key, as one sentence."""
    told = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            told.append(line.lstrip("# "))
    words = " ".join(told)
    if re.match(r"[a-z]+[ ,;:]", words):  # a word of prose, no key
        words = words[:1].upper() + words[1:]
    return escaped(words) + "." * bool(words and not words.endswith("."))


def first_paragraph(target: str) -> str:
    """Of the docstring of a class, found in the source without importing it."""
    module, _, name = target.rpartition(".")
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return ""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name and (doc := ast.get_docstring(node)):
            return escaped(re.sub(r" Raises .*", "", " ".join(doc.split("\n\n")[0].split())))
    return ""


def rows_of(file: Path, prefix: str) -> list[Row]:
    """Every key of a YAML file with its default and the comment behind it."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text)
    return list(leaves(node, prefix, text, {})) if isinstance(node, yaml.MappingNode) else []


def leaves(node: yaml.MappingNode, path: str, text: str, seen: dict[int, str]) -> Iterator[Row]:
    """`seen`: the nodes that an alias may repeat, and their keys."""
    for key_node, value in node.value:
        key = key_node.value
        full = f"{path}.{key}".lstrip(".")
        if key in ("defaults", "_target_", "_partial_", "needs", "optional", "in_run_folder"):
            continue
        if id(value) in seen:
            yield (full if key != "<<" else f"{path}.…", f"as `{seen[id(value)]}`", "")
            continue
        seen[id(value)] = full
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from leaves(value, full, text, seen)
        else:
            raw = " ".join(text[value.start_mark.index : value.end_mark.index].split())
            shown = raw if len(raw) <= LONGEST else raw[:LONGEST].rstrip() + " …"
            yield full, f"`{shown}`", comment_behind(text, value.end_mark.index)


def comment_behind(text: str, end: int) -> str:
    rest = text[end:].split("\n", 1)[0]
    found = re.search(r"(?:^|\s)# ?(.*)$", rest)
    return escaped(found.group(1).strip()) if found else ""


def escaped(text: str) -> str:
    """For Markdown: bars, stars and angle brackets outside of code stay what they are."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([|*<>\[\]_])", r"\\\1", part) for part in parts)


def table(rows: list[Row]) -> list[str]:
    lines = ["| key | default | |", "| --- | --- | --- |"]
    return lines + [f"| `{key}` | {default.replace('|', chr(92) + '|')} | {comment} |" for key, default, comment in rows]


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    made = pages()
    for stale in set(PAGES.glob("*.md")) - made.keys():
        stale.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
