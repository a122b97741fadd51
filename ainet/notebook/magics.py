"""``%ainet`` and ``%%ainet ask``: the node in a notebook, in the words of the ``ainet`` command."""

from __future__ import annotations

import html
import json
import keyword
import time
import traceback
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import DisplayHandle, clear_output, display

from ainet.api import clients, context, economy
from ainet.api.generate import Message, Progress, Text
from ainet.cli.command import Options, find_node, report
from ainet.cli.commands.ask import quote_words, quoted, sampling, where
from ainet.cli.commands.context import find, found_words, trace_words
from ainet.cli.commands.economy import usage_words
from ainet.cli.commands.kernel import remember_words
from ainet.cli.commands.models import plan_words, what_if
from ainet.cli.parser import HelpShown
from ainet.cli.progress import BEGUN, ProgressLine, progress_text
from ainet.cli.subcommands import build_parser
from ainet.cli.terminal import say
from ainet.client.answer import Answer
from ainet.client.cited import LEGEND, below_words, has_unknown, marked, prompt_words, source_words
from ainet.errors import AinetError, PromptTooLong, UsageError
from ainet.notebook.failure import failure_words
from ainet.notebook.line_magic import keep_typed_text, mend_this_cell
from ainet.notebook.markdown import to_html
from ainet.notebook.recent import recent_words
from ainet.notebook.remembering import Remembering
from ainet.notebook.sources import found_html, sources_html
from ainet.notebook.words import as_typed, options_first, split

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ainet.api.generate import Event

#: The subcommands that take text as it is typed.
FREE_TEXT = ("ask", "find", "fix")
#: Seconds between two updates of a growing answer: smooth to the eye, easy on the browser.
UPDATE = 0.1


class Stopped(KeyboardInterrupt):
    """The user interrupted the answer; what had come stays."""

    def _render_traceback_(self) -> list[str]:
        return ["Stopped."]


def register(shell: InteractiveShell) -> None:
    """Give `shell` the magics, unless it has them: a second time would forget the conversation."""
    if "AinetMagics" not in shell.magics_manager.registry:
        magics = AinetMagics(shell)
        shell.register_magics(magics)
        shell.input_transformers_cleanup.append(keep_typed_text(shell, magics.commands))
        mend_this_cell(shell)


@magics_class
class AinetMagics(Magics):
    """The magics of one kernel, and the conversation that it has had."""

    shell: InteractiveShell

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._parser = build_parser("%ainet", in_kernel=True)
        self._subparsers = self._parser.subparsers
        type(self).ainet.__doc__ = self._parser.format_help()
        self.conversation: list[Message] = []
        #: Whether something of it must stay on the owner's devices: documents that went along, a private question.
        self._is_personal = False
        self._last: tuple[list[Message], Answer] | None = None
        self._remembering = Remembering(shell, lambda: find_node(self._parser.parse_args([])))

    @property
    def commands(self) -> frozenset[str]:
        """The names of the subcommands."""
        return frozenset(self._subparsers)

    @no_var_expand
    @line_cell_magic
    def ainet(self, line: str, cell: str | None = None) -> Any:
        """Stand in for the parser's help, which `__init__` puts here."""
        words = split(line)
        asks = next((n for n, word in enumerate(words) if word in FREE_TEXT), len(words))
        if words and words[0] not in FREE_TEXT and not words[0].startswith("-"):
            asks = len(words)  # it belongs to another subcommand
        arguments = [str(word) for word in words[: asks + 1]]
        if asks < len(words):
            arguments += options_first(words[asks + 1 :], self._subparsers[words[asks]])
        if not arguments and cell is not None:
            arguments = ["ask"]
        try:
            options = self._parser.parse_args(arguments)
        except HelpShown:
            return None
        if options.command in FREE_TEXT:
            options.text = [as_typed(options.text, line)]
        if cell is not None and options.command != "ask":
            raise UsageError(
                f"`{options.command}` takes no cell: write %ainet {options.command}, with one percent sign."
            )
        try:
            return self._run(options, cell)
        except AinetError:
            if getattr(options, "debug", False):
                traceback.print_exc()
            raise

    def _run(self, options: Options, cell: str | None) -> Any:
        if options.command == "ask":
            return self._ask(options, cell)
        if options.command == "fix":
            options.text = [*options.text, failure_words(self.shell)]
            return self._ask(options, None)
        if options.command == "client":
            return self._client(options)
        if options.command == "new":
            self.conversation.clear()
            self._is_personal = False
            say("A new conversation begins.")
        elif options.command == "remember":
            say(remember_words(self._remembering.switch(options.mode)))
        elif options.command == "last":
            self._show_last(options)
        elif options.command == "find" and self._in_kernel and not options.json:
            self._find(options)
        elif options.command == "trace" and self._in_kernel and not options.json:
            self._trace(options)
        elif options.command == "usage" and self._in_kernel and not options.json:
            self._usage(options)
        elif options.command == "plan" and self._in_kernel and not options.json:
            self._plan(options)
        else:
            options.run(options)
        return None

    def _ask(self, options: Options, cell: str | None) -> None:
        question = "\n".join(part for part in (" ".join(options.text), (cell or "").strip("\n")) if part)
        if not question.strip():
            raise UsageError("Ask what? Write the question below %%ainet ask, or behind %ainet ask.")
        if options.cells is not None:
            question = f"{recent_words(self.shell, options.cells)}\n\n{question}"
        if options.to is not None and (not options.to.isidentifier() or keyword.iskeyword(options.to)):
            raise UsageError(f"--to {options.to}: that is not the name of a variable.")
        if options.quote:
            report(options, quoted(options, question), quote_words)
            return
        if options.seller is not None and self._is_personal and not options.raw:
            raise UsageError(
                "Your documents, or a private question, are part of this conversation: it stays on your devices. "
                "`%ainet new` begins another one."
            )
        messages = self._messages(options, question)
        answer = Answer()
        self._last = messages, answer
        view = self._view(options, is_alone=cell is not None)
        stopped = False
        view.begin()
        try:
            with find_node(options) as node:
                events = node.generate(messages, **sampling(options))
                try:
                    for event in events:
                        answer.add(event)
                        view.show(event, answer)
                except KeyboardInterrupt:
                    stopped = True
                    answer.cut_off()
                finally:
                    events.close()
                    view.finish(answer)
        except PromptTooLong as error:
            if len(messages) > 1 and not options.raw:
                error.args = (f"{error.message} `%ainet new` begins a new conversation.",)
                error.message = error.args[0]
            raise
        if answer.text:
            self._remembering.conversation(question, answer.text)
        if not options.raw and answer.text:
            self.conversation = [*messages, Message("assistant", answer.text)]
            self._is_personal |= bool(options.private) or where(options) is not None
        if options.to is not None:
            self.shell.user_ns[options.to] = answer.text
        if stopped:
            raise Stopped

    def _show_last(self, options: Options) -> None:
        if self._last is None:
            raise UsageError("Nothing was asked yet in this notebook.")
        messages, answer = self._last
        say(prompt_words(messages, answer) if options.prompt else marked(answer))

    def _find(self, options: Options) -> None:
        found = find(options)
        plain = found_words(found, options)
        display({"text/html": found_html(found) or html.escape(plain), "text/plain": plain}, raw=True)

    def _trace(self, options: Options) -> None:
        from ainet.notebook.picture import image
        from ainet.notebook.trace_picture import trace_svg

        with find_node(options) as node:
            found = node.call(context.trace, options.name, options.folder, options.depth)
        plain = trace_words(found)
        display({"text/html": image(trace_svg(found), plain), "text/plain": plain}, raw=True)

    def _usage(self, options: Options) -> None:
        from ainet.notebook.picture import image
        from ainet.notebook.usage_plot import usage_svg

        with find_node(options) as node:
            found = node.call(economy.usage, options.by, options.days)
        plain = usage_words(found)
        picture = image(usage_svg(found), "Time for which devices worked, by day")
        display({"text/html": f"{picture}<pre>{html.escape(plain)}</pre>", "text/plain": plain}, raw=True)

    def _messages(self, options: Options, question: str) -> list[Message]:
        asked = Message("user", question)
        if options.raw:
            return [asked]
        if not options.system:
            return [*self.conversation, asked]
        rest = [message for message in self.conversation if message.role != "system"]
        return [Message("system", options.system), *rest, asked]

    def _view(self, options: Options, *, is_alone: bool) -> View:
        if options.json:
            return JsonView()
        return CellView(is_alone=is_alone) if self._in_kernel else TerminalView()

    @property
    def _in_kernel(self) -> bool:
        return getattr(self.shell, "kernel", None) is not None

    def _plan(self, options: Options) -> None:
        from ainet_widgets.placement import PlacementBar

        with find_node(options) as node:
            found = node.plan(options.model, options.stages, what_if(options), private=options.private)
        say(plan_words(found))
        display(PlacementBar(found.stages))

    def _client(self, options: Options) -> Any:
        from distributed import Client, Security

        with find_node(options) as node:
            opened = node.call(clients.open_client, options.workers)
        security = Security(
            require_encryption=True,
            tls_ca_file=opened.tls.ca,
            tls_client_cert=opened.tls.cert,
            tls_client_key=opened.tls.key,
        )
        return Client(opened.address, security=security)


class View:
    """Shows an answer while it grows."""

    def begin(self) -> None:
        """Show at once that something goes on."""

    def show(self, event: Event, answer: Answer) -> None:
        """Take note of an event that `answer` has taken in."""

    def finish(self, answer: Answer) -> None:
        """Show the last state."""


class CellView(View):
    """An answer that grows below a cell, and one quiet line under it.

    Parameters
    ----------
    is_alone
        Whether nothing else is below the cell: then nothing is left of it when there is no answer.
    """

    def __init__(self, *, is_alone: bool) -> None:
        self._is_alone = is_alone
        self._handle: DisplayHandle | None = None
        self._shown = 0.0

    def begin(self) -> None:
        """Make the place where the answer will be."""
        self.show(BEGUN, Answer())

    def show(self, event: Event, answer: Answer) -> None:
        """Show the text so far, or what is going on before there is any."""
        now = time.monotonic()
        if isinstance(event, Progress | Text) and now - self._shown >= UPDATE:
            self._shown = now
            waiting = f"<p><em>{html.escape(progress_text(event))}</em></p>" if isinstance(event, Progress) else ""
            self._update(to_html(answer.text) + waiting, answer.text)

    def finish(self, answer: Answer) -> None:
        """Show the whole text and the line."""
        if self._is_alone and not answer.text and not answer.finish:  # an error follows
            clear_output()
        elif answer.text or self._handle is not None:
            self._update(to_html(marked(answer, escape=True)), marked(answer))
        if answer.passages and answer.finish:
            plain = "\n".join([*([LEGEND] if has_unknown(answer) else []), *source_words(answer.passages)])
            display({"text/html": sources_html(answer), "text/plain": plain}, raw=True)
        if answer.finish:
            footer = answer.footer()
            quiet = f'<small style="opacity: 0.6">{html.escape(footer)}</small>'
            display({"text/html": quiet, "text/plain": footer}, raw=True)

    def _update(self, shown: str, text: str) -> None:
        content = {"text/html": shown, "text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class TerminalView(View):
    """Text that streams into a terminal."""

    def __init__(self) -> None:
        self._progress = ProgressLine()

    def begin(self) -> None:
        self._progress.begin()

    def show(self, event: Event, answer: Answer) -> None:
        """Print the new piece."""
        if isinstance(event, Progress):
            self._progress.show(event, amid=bool(answer.text))
        elif isinstance(event, Text):
            self._progress.clear()
            say(event.text, end="")

    def finish(self, answer: Answer) -> None:
        """Print the quiet line."""
        self._progress.clear()
        if answer.passages and answer.finish:
            say(f"\n\n{below_words(answer)}")
        if answer.finish:
            say(f"\n{answer.footer()}")
        elif answer.text:
            say()  # an error follows


class JsonView(View):
    """One line of JSON at the end."""

    def finish(self, answer: Answer) -> None:
        if answer.finish:
            say(json.dumps(answer.to_dict(), ensure_ascii=False))
