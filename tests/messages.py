"""What the agent can log at WARNING or above, and answer with, as templates: read from its source, never by running it.

A message is a literal text. It is logged where it stands, or is carried there by an error, by a list of problems or by
a variable. Whatever is put into it at run time is HOLE here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "preloader_agent"
HOLE = "\N{HORIZONTAL ELLIPSIS}"
# Which argument of an error has the words; the other errors' words are in their `__str__`.
_ERRORS = {
    "InvalidDisk": 1, "PreloaderError": 0, "StoreError": 1, "StoreFull": 1, "StoreUnused": 1,
    "ContainerError": 1, "InvalidFile": 3, "MountError": 3, "DigestMismatch": None, "DisksMissing": None,
    "InvalidValue": None,
}  # fmt: skip
_LEVELS = ("warning", "error", "exception", "critical")
# What is answered to a request, and logged by the command that made it.
_REFUSAL = "_refusal"
# What `status` shows, and systemd of it in a line.
_PROBLEMS = "all_problems"


class Module:
    """A module of the source, and what can be logged from it."""

    def __init__(self, path: Path, functions: dict[str, ast.FunctionDef]) -> None:
        self.tree = ast.parse(path.read_text())
        self.own = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.functions = functions  # of all modules
        functions.update(self.own)
        self.unresolved: list[str] = []

    def messages(self) -> Iterator[str]:
        """Every template."""
        for function in ast.walk(self.tree):
            if isinstance(function, ast.FunctionDef):
                for call in _calls(function):
                    yield from self._of_call(call, function)
                if function.name == _PROBLEMS:
                    for node in ast.walk(function):
                        yield from self.texts(node, function) if isinstance(node, ast.JoinedStr) else ()

    def _of_call(self, call: ast.Call, function: ast.FunctionDef) -> Iterator[str]:
        name, owner = _name(call.func), _name(getattr(call.func, "value", None))
        if owner == "log" and name in _LEVELS:
            yield from self._of_log(call, function)
        elif name == _REFUSAL or (name == "append" and owner.endswith("problems")):
            yield from self.texts(call.args[0], function)
        elif (position := _ERRORS.get(name)) is not None:
            yield from self.texts(call.args[position], function)

    def _of_log(self, call: ast.Call, function: ast.FunctionDef) -> Iterator[str]:
        template = call.args[0]
        assert isinstance(template, ast.Constant), (
            f"line {call.lineno}: the message of a log call is not a literal text"
        )
        text = str(template.value)
        if text != "%s":
            yield re.sub("%s", HOLE, text)
            return
        found = list(self.texts(call.args[1], function))
        if not found and not _is_from_a_list(call.args[1], function):
            self.unresolved.append(ast.unparse(call))
        yield from found

    def texts(self, value: ast.expr | None, function: ast.AST) -> Iterator[str]:
        """The texts that an expression can be, as far as they are literal."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
            yield value.value
        elif isinstance(value, ast.JoinedStr):
            yield "".join(self._part(part, function) for part in value.values)
        elif isinstance(value, ast.IfExp):
            yield from [*self.texts(value.body, function), *self.texts(value.orelse, function)]
        elif isinstance(value, ast.Name):
            yield from self._assigned(value.id, function, function)
        elif isinstance(value, ast.Attribute):
            yield from self._assigned(value.attr, self.tree, function)
        elif isinstance(value, ast.Call) and (called := self._function(_name(value.func))):
            for node in ast.walk(called):
                if isinstance(node, ast.Return):
                    yield from self.texts(node.value, called)

    def _function(self, name: str) -> ast.FunctionDef | None:
        return self.own.get(name) or self.functions.get(name)

    def _assigned(self, name: str, where: ast.AST, function: ast.AST) -> Iterator[str]:
        for node in ast.walk(where):
            if isinstance(node, ast.Assign) and name in map(_name, node.targets) and _name(node.value) != name:
                yield from self.texts(node.value, function)

    def _part(self, part: ast.expr, function: ast.AST) -> str:
        """A part of an f-string; a variable that has one literal text is that text."""
        if isinstance(part, ast.Constant):
            return str(part.value)
        assert isinstance(part, ast.FormattedValue)
        if not isinstance(part.value, ast.Name):
            return HOLE
        known = {**_constants(self.tree.body), **_constants(ast.walk(function))}.get(part.value.id)
        return next(iter(self.texts(known, function)), HOLE)


def agent_messages() -> set[str]:
    """Every message of the agent; fails on one that is logged and cannot be told from the source."""
    functions: dict[str, ast.FunctionDef] = {}
    modules = [Module(path, functions) for part in ("guest", "store") for path in sorted((PACKAGE / part).glob("*.py"))]
    found = {text for module in modules for text in module.messages()} | set(_texts_of_errors())
    assert [call for module in modules for call in module.unresolved] == []
    return {_plain(text) for text in found if re.search("[a-z]{2}", text.replace(HOLE, ""))}


def _texts_of_errors() -> Iterator[str]:
    module = Module(PACKAGE / "errors.py", {})
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef) and _ERRORS.get(node.name, 0) in (None, 3):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__str__":
                    yield from (text for each in ast.walk(method) if isinstance(each, ast.Return)
                                for text in module.texts(each.value, method))  # fmt: skip


@cache
def literal_texts(folder: Path) -> set[str]:
    """Every literal text below a folder, with HOLE for what is put into it."""
    found = set()
    for path in folder.rglob("*.py"):
        module = Module(path, {})
        for part in (module.tree, *module.own.values()):
            for node in ast.walk(part):
                if isinstance(node, (ast.Constant, ast.JoinedStr)):
                    found |= {_plain(re.sub("%[a-z]", HOLE, text)) for text in module.texts(node, part)}
    return found


def _calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Call))


def _constants(nodes: Iterable[ast.AST]) -> dict[str, ast.expr]:
    """The variables to which a text is given, and nothing else."""
    given: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            given.setdefault(_name(node.targets[0]), []).append(node.value)
    literal = (ast.Constant, ast.JoinedStr)
    return {name: values[0] for name, values in given.items() if len(values) == 1 and isinstance(values[0], literal)}


def _name(node: ast.AST | None) -> str:
    return getattr(node, "id", "") or getattr(node, "attr", "")


def _is_from_a_list(value: ast.expr, function: ast.FunctionDef) -> bool:
    """Whether a variable goes through a list of problems, whose texts are found where they are put in."""
    loops = [node for node in ast.walk(function) if isinstance(node, ast.For) and _name(node.target) == _name(value)]
    return any(_name(loop.iter).endswith(("problems", "complaints")) for loop in loops)


def _plain(text: str) -> str:
    """One line, and one HOLE where several stand together."""
    return re.sub(f"{HOLE}(?:{HOLE})+", HOLE, " ".join(text.split()))
