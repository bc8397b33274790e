"""The directives of docs/man: `synopsis` and `options` of a command, and `settings`.

What a command line or settings.py defines stands in the page because it is defined there. A directive's content, an
option list or a definition list, is what there is to say beyond that; a name in it that is not defined is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from pages.commands import Command, Option, list_commands
from preloader_agent.guest.settings import Settings

COMMANDS = list_commands()


def register() -> None:
    """Make the directives known to docutils."""
    for name, directive in (("synopsis", _Synopsis), ("options", _Options), ("settings", _Settings)):
        directives.register_directive(name, directive)


class _Described(Directive):
    """A directive whose content says something of names."""

    has_content = True

    def texts(self, names: Iterable[str]) -> dict[str, Sequence[nodes.Node]]:
        """What the content says of each name. Raises the error of a name that is not among `names`."""
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        found = {}
        for item in (item for listed in parsed.children for item in listed.children):
            if not isinstance(item, nodes.option_list_item | nodes.definition_list_item):
                raise self.error(f"expected a list of options or definitions, found {item.astext()!r:.60}")
            found[item[0].astext()] = item[-1].children
        if unknown := found.keys() - set(names):
            raise self.error(f"{', '.join(sorted(unknown))}: not defined; expected {', '.join(names)}")
        return found

    def inline(self, text: str) -> list[nodes.Node]:
        """The words of a help text, in which `` ` `` marks what is literal."""
        inline, messages = self.state.inline_text(text.replace("`", "``"), self.lineno)
        return [*inline, *messages]


class _Command(_Described):
    """A directive about the command that its argument names."""

    required_arguments = 1
    final_argument_whitespace = True

    def command(self) -> Command:
        """The command. Raises the error of a name that is none."""
        if self.arguments[0] not in COMMANDS:
            raise self.error(f"{self.arguments[0]}: no such command; expected one of {', '.join(COMMANDS)}")
        return COMMANDS[self.arguments[0]]


class _Synopsis(_Command):
    """A line for each command of a program, or for one command."""

    def run(self) -> list[nodes.Node]:
        top = self.command().name
        within = [one for name, one in COMMANDS.items() if f"{name} ".startswith(f"{top} ") and not one.is_group]
        return [nodes.line_block("", *(nodes.line("", "", *_synopsis(command)) for command in within))]


def _synopsis(command: Command) -> list[nodes.Node]:
    shown: list[nodes.Node] = [nodes.strong("", command.name)]
    for word in " ".join(command.synopsis()).split():
        shown += [nodes.Text(" "), *_mark(word)]
    return shown


def _mark(word: str) -> list[nodes.Node]:
    """A word of a synopsis: options are bold, what stands for a value is in italics, brackets are neither."""
    inner = word.removeprefix("[").removesuffix("...").removesuffix("]")
    before, after = word.split(inner, 1)
    marked = nodes.strong if inner.startswith("-") else nodes.emphasis
    return [nodes.Text(before), marked("", inner), nodes.Text(after)]


class _Options(_Command):
    """The options of a command: its helps, and what the content says beyond."""

    def run(self) -> list[nodes.Node]:
        texts = self.texts([name for option in self.command().options for name in option.names])
        items = [_item(_term(option), self._describe(option, texts)) for option in self.command().options]
        return [nodes.definition_list("", *items)]

    def _describe(self, option: Option, texts: dict[str, Sequence[nodes.Node]]) -> list[nodes.Node]:
        """One paragraph of the option's help, what the page says beyond, and its default."""
        first, *others = [node for name in option.names for node in texts.get(name, ())] or [nodes.paragraph()]
        last = [f"Default: `{option.default}`."] * bool(option.default) + [
            "May be given several times."
        ] * option.is_repeated
        sentences = [self.inline(option.help), first.children, *map(self.inline, last)]
        lines = [[nodes.Text("\n" * bool(number)), *said] for number, said in enumerate(filter(None, sentences))]
        return [nodes.paragraph("", "", *itertools.chain(*lines)), *others]


def _term(option: Option) -> nodes.term:
    term = nodes.term()
    for number, name in enumerate(option.names):
        term += [nodes.Text(", " if number else ""), nodes.strong("", name)]
    if option.metavar:
        # A choice is written as it is, words that stand for something are not.
        marked = nodes.strong if option.metavar.islower() else nodes.emphasis
        term += [nodes.Text(" "), marked("", option.metavar)]
    return term


class _Settings(_Described):
    """The keys of the agent's settings with what counts where nothing is said; the content has to tell of each."""

    def run(self) -> list[nodes.Node]:
        texts = self.texts(Settings._fields)
        if silent := set(Settings._fields) - texts.keys():
            raise self.error(f"{', '.join(sorted(silent))}: nothing is said of it here")
        items = []
        for key, value in Settings()._asdict().items():
            term = nodes.term("", "", nodes.strong("", f"{key}="), nodes.Text(_written(value)))
            items.append(_item(term, texts[key]))
        return [nodes.definition_list("", *items)]


def _written(value: object) -> str:
    """A value as one writes it into the file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    # An Expectation is a tuple, too, and says itself how it is written.
    return " ".join(value) if type(value) is tuple else str(value)


def _item(term: nodes.term, content: Sequence[nodes.Node]) -> nodes.definition_list_item:
    return nodes.definition_list_item("", term, nodes.definition("", *content))
