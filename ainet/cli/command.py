"""The subcommands: their options, once for the command line and for the magics, and what they do."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.cli import parser as arguments
from ainet.cli import tables
from ainet.cli.parser import SAMPLING, Parser
from ainet.cli.progress import Progress
from ainet.client.answer import Answer
from ainet.client.client import NodeClient
from ainet.config import default_data_dir
from ainet.errors import AinetError, UsageError
from ainet.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable


Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    name
        What is typed.
    help
        One line about it.
    add_options
        Adds its options to a parser; the flag says whether a kernel is there.
    run
        Does it and returns the exit status.
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser, bool], None]
    run: Callable[[Options], int]


def build_parser(prog: str, *, kernel: bool) -> Parser:
    """Return the parser of ``ainet`` (or ``%ainet``, with the subcommands that need a kernel)."""
    common = Parser(add_help=False)
    common.add_argument(
        "--data-dir",
        metavar="DIR",
        type=lambda text: Path(text).expanduser().absolute(),
        default=argparse.SUPPRESS,
        help="the node's data directory (default: AINET_DATA_DIR, or ainet in Jupyter's data directory)",
    )
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = Parser(prog=prog, description="The node of this device.", parents=[common])
    parser.set_defaults(command="status", json=False, run=_status, in_kernel=kernel)
    parser.add_argument("--version", action="version", version=f"ainet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=not kernel)
    for command in (*COMMANDS, *KERNEL_COMMANDS) if kernel else COMMANDS:
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=_sentence(command.help), parents=[common]
        )
        command.add_options(subparser, kernel)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def data_dir(options: Options) -> Path:
    """Return the data directory that was named, or the default one.

    Raises
    ------
    UsageError
        It is no directory.
    """
    named: Path | None = getattr(options, "data_dir", None)
    path = named or default_data_dir().absolute()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a data directory. Name another one (--data-dir, AINET_DATA_DIR).")
    return path


def find_node(options: Options) -> NodeClient:
    """Return a client of the node that the options name."""
    return NodeClient.find(data_dir(options))


def sampling(options: Options) -> dict[str, Any]:
    """Return `ask`'s options as `NodeClient.generate` takes them."""
    found = {name: getattr(options, name) for name in SAMPLING}
    if options.grammar is not None:
        found["grammar"] = _read(options.grammar)
    if options.json_schema is not None:
        try:
            found["json_schema"] = json.loads(_read(options.json_schema))
        except ValueError as exc:
            raise UsageError(f"{options.json_schema} is not JSON: {exc}.") from exc
    return found


def conversation(options: Options, question: str) -> list[dict[str, str]]:
    """Return the messages of a single question."""
    system = [{"role": "system", "content": options.system}] if options.system else []
    return [*system, {"role": "user", "content": question}]


def _up(options: Options) -> int:
    from ainet.daemon import daemon

    directory = data_dir(options)
    names = ("name", "listen", "lan", "memory", "threads", "disk", "gpu", "lend")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.foreground:
        daemon.refuse_second(directory, given)
        return _serve(directory, given)
    running, started = daemon.up(directory, given)
    if options.json:
        _print_json({"url": running.url, "pid": running.pid, "data_dir": str(directory), "started": started})
    else:
        print(f"The node {'is up' if started else 'already runs'}: process {running.pid}, {running.url}")
    return 0


def _serve(directory: Path, given: dict[str, Any]) -> int:
    from ainet.daemon import daemon
    from ainet.server.headless import serve

    with daemon.options_kept(directory, given):
        status = serve(directory, console=True)
        if status:
            raise daemon.not_started(directory, given, "the log above says why.")
    return status


def _down(options: Options) -> int:
    from ainet.daemon import daemon

    directory = data_dir(options)
    stopped = daemon.down(directory)
    if options.json:
        _print_json({"stopped": stopped is not None, "pid": stopped and stopped.pid, "data_dir": str(directory)})
        return 0
    print(f"The node (process {stopped.pid}) has stopped." if stopped else f"No node is running on {directory}.")
    return 0


def _logs(options: Options) -> int:
    from ainet.daemon import daemon

    texts = daemon.read_log(data_dir(options), options.lines, follow=options.follow)
    if options.json:
        texts = (json.dumps({"lines": text.splitlines()}, ensure_ascii=False) + "\n" for text in texts)
    for text in texts:
        print(text, end="", flush=True)
    return 0


def _status(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.status(), tables.status)
    return 0


def _models(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.models(), tables.models)
    return 0


def what_if(options: Options) -> list[dict[str, Any]] | None:
    """Return the devices that `plan --what-if` names, if it does."""
    if options.what_if is None:
        return None
    try:
        found = json.loads(Path(options.what_if).expanduser().read_text())
        return list(found["devices"])
    except OSError as exc:
        raise UsageError(f"{options.what_if} cannot be read: {exc.strerror}.") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise UsageError(
            f"{options.what_if} does not describe devices; it must be JSON: " + '{"devices": [{"name": …}, …]}.'
        ) from exc


def _plan(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.plan(options.model, options.stages, what_if(options)), tables.plan)
    return 0


def _members(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.members(), tables.members)
    return 0


def _peers(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.peers(), tables.peers)
    return 0


def _connect(options: Options) -> int:
    with find_node(options) as node:
        words = "Connected to {name} ({path}).".format_map
        _show(options, node.connect(options.address), words)
    return 0


def _ask(options: Options) -> int:
    question = " ".join(options.text)
    if not options.text or question == "-":
        if sys.stdin.isatty():
            raise UsageError("ask what? Write the question behind `ainet ask`, or send it to its standard input.")
        question = sys.stdin.read()
    given = sampling(options)
    answer = Answer()
    progress = Progress()
    interrupted = False
    with find_node(options) as node:
        events = node.generate(conversation(options, question), **given)
        try:
            for event in events:
                answer.add(event)
                if event["event"] == "progress":
                    progress.show(event, amid=bool(answer.text))
                elif event["event"] == "text" and not options.json:
                    progress.clear()
                    print(event["text"], end="", flush=True)
        except KeyboardInterrupt:
            interrupted = True
            answer.cut_off()
        except AinetError:
            if answer.text and not options.json:
                print(flush=True)
            raise
        finally:
            events.close()
            progress.clear()
    if options.json:
        _print_json(answer.to_dict())
    else:
        print(flush=True)
        print(answer.footer(), file=sys.stderr)
    return 130 if interrupted else 0


def _unload(options: Options) -> int:
    with find_node(options) as node:
        unloaded = node.unload(options.model)
    if options.json:
        _print_json({"unloaded": unloaded})
    else:
        print(f"Unloaded: {', '.join(unloaded)}." if unloaded else "Nothing was loaded.")
    return 0


def _invite(options: Options) -> int:
    def show(invited: dict[str, Any]) -> str:
        warning = f"\n{invited['warning']}" if invited["warning"] else ""
        return (
            f"On the other device, within {options.minutes:g} minutes:\n\n    ainet join {invited['ticket']}\n\n"
            f"It connects to {invited['address']}. The ticket works once; whoever has it can join.{warning}"
        )

    with find_node(options) as node:
        _show(options, node.invite(options.listen, options.minutes, lan=options.lan), show)
    return 0


def _join(options: Options) -> int:
    def show(joined: dict[str, Any]) -> str:
        names = ", ".join(member["name"] for member in joined["members"])
        warning = f"\n{joined['warning']}" if joined["warning"] else ""
        return f"This device, {joined['name']}, is a member now. The members: {names}.{warning}"

    with find_node(options) as node:
        _show(options, node.join(options.ticket, options.name, lan=options.lan), show)
    return 0


def _remove(options: Options) -> int:
    def show(removed: dict[str, Any]) -> str:
        key = " It keeps its copy of the swarm's key: keep that device safe, or found a new swarm."
        return f"{removed['name']} is no member any more.{key if removed['holds_ca'] else ''}"

    with find_node(options) as node:
        _show(options, node.remove(options.name), show)
    return 0


def _settings(options: Options) -> int:
    if options.key and not options.unset and options.value is None:
        raise UsageError(f"Set {options.key} to what? Write a value behind it, or --unset.")
    with find_node(options) as node:
        found = node.set_setting(options.key, options.value) if options.key else node.settings()
    _show(options, found, tables.settings)
    return 0


def _share(options: Options) -> int:
    # Jupyter's servers tell their kernels which notebook they belong to.
    path = options.notebook or (os.environ.get("JPY_SESSION_NAME") if options.in_kernel else None)
    with contextlib.suppress(OSError, ValueError):  # a path that cannot be looked at: the node says so
        if path is not None and Path(path).exists():
            path = str(Path(path).absolute())
    with find_node(options) as node:
        if options.list or path is None:
            _show(options, node.notebooks(), tables.notebooks)
            return 0
        shared = node.share(path, options.name, read_only=options.read_only, audience=options.audience)

    def show(shared: dict[str, Any]) -> str:
        return f"{shared['path']} is shared with {', '.join(shared['with'])}. There: ainet open {shared['name']}"

    _show(options, shared, show)
    return 0


def _unshare(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.unshare(options.name), "{name} is shared no more. The others keep their copies.".format_map)
    return 0


def _open(options: Options) -> int:
    with find_node(options) as node:
        opened = node.open_notebook(options.name, options.path)
    undone = "Your changes are undone: it is shared for reading. Copy it to change it."
    may = undone if opened["read_only"] else "Changes go both ways."
    _show(options, opened, lambda opened: f"{opened['name']} is {opened['path']} here. {may}")
    return 0


def _introduce(options: Options) -> int:
    def show(invited: dict[str, Any]) -> str:
        return (
            f"On the other device, within {options.minutes:g} minutes:\n\n    ainet accept {invited['ticket']}\n\n"
            f"It connects to {invited['address']}. The ticket works once. A contact gets only what is shared with it."
        )

    with find_node(options) as node:
        _show(options, node.introduce(options.listen, options.minutes, lan=options.lan), show)
    return 0


def _accept(options: Options) -> int:
    with find_node(options) as node:
        words = "{name} is a contact now. It gets only what is shared with it.".format_map
        _show(options, node.accept(options.ticket, lan=options.lan), words)
    return 0


def _contacts(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.contacts(), tables.contacts)
    return 0


def _forget(options: Options) -> int:
    with find_node(options) as node:
        _show(options, node.forget(options.name), "{name} is forgotten.".format_map)
    return 0


def _export_key(options: Options) -> int:
    from ainet.files import write_private

    passphrase = _passphrase("Passphrase for the exported key: ", repeat=True)
    with find_node(options) as node:
        key = node.export_key(passphrase)
    if options.file == "-":
        _show(options, {"key": key}, lambda exported: exported["key"])
        return 0
    write_private(Path(options.file), key.encode())
    words = f"{options.file} holds the swarm's key. Whoever has it and the passphrase can add devices."
    _show(options, {"file": str(Path(options.file).absolute())}, lambda _: words)
    return 0


def _import_key(options: Options) -> int:
    key = _read(options.file)
    passphrase = _passphrase("Passphrase of the exported key: ", repeat=False)
    with find_node(options) as node:
        _show(options, node.import_key(key, passphrase), lambda _: "This device can add and renew members now.")
    return 0


def _in_a_kernel(options: Options) -> int:
    raise UsageError(f"`{options.command}` needs a kernel: %ainet {options.command}")


COMMANDS = (
    Command("up", "start the node", arguments.up, _up),
    Command("down", "stop the node and all of its processes", arguments.only_json, _down),
    Command("status", "show the node, its members and what they hold", arguments.only_json, _status),
    Command("logs", "show the node's log", arguments.logs, _logs),
    Command("ask", "ask a model", arguments.ask, _ask),
    Command("plan", "explain which layers would run where", arguments.plan, _plan),
    Command("models", "list the models", arguments.only_json, _models),
    Command("unload", "unload a model", arguments.unload, _unload),
    Command("members", "list the swarm's members", arguments.only_json, _members),
    Command("peers", "show who is there, how each is reached, and what it has", arguments.only_json, _peers),
    Command("connect", "connect to a member at an address", arguments.connect, _connect),
    Command("invite", "make a ticket for a further device", arguments.invite, _invite),
    Command("join", "join the swarm of a ticket", arguments.join, _join),
    Command("remove", "remove a member from the swarm", arguments.remove, _remove),
    Command("settings", "show or change what all members share", arguments.settings, _settings),
    Command("share", "share a notebook, live", arguments.share, _share),
    Command("unshare", "stop sharing a notebook", arguments.unshare, _unshare),
    Command("open", "open a notebook that another device shares", arguments.open_notebook, _open),
    Command("introduce", "make a ticket for a device of another owner", arguments.invite, _introduce),
    Command("accept", "become contacts with the device of a ticket", arguments.accept, _accept),
    Command("contacts", "list the contacts: devices of other owners", arguments.only_json, _contacts),
    Command("forget", "forget a contact", arguments.forget, _forget),
    Command("export-key", "write the swarm's key, encrypted", arguments.export_key, _export_key),
    Command("import-key", "take over an exported key", arguments.import_key, _import_key),
)
#: What only the magics can do: it concerns the kernel's own conversation and variables.
KERNEL_COMMANDS = (
    Command("new", "begin a new conversation", arguments.none, _in_a_kernel),
    Command("client", "return a dask Client with workers that members lend", arguments.client, _in_a_kernel),
)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _show(options: Options, found: Any, words: Callable[[Any], str]) -> None:
    if options.json:
        _print_json(found)
    else:
        print(words(found))


def _print_json(found: Any) -> None:
    print(json.dumps(found, ensure_ascii=False))


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{name} cannot be read: {exc}.") from exc


def _passphrase(prompt: str, *, repeat: bool) -> str:
    """Return the passphrase from the environment or the terminal; never from an argument that others could see."""
    named = os.environ.get("AINET_PASSPHRASE")
    if named:
        return named
    try:
        with warnings.catch_warnings():
            # Where it cannot be typed unseen, it is not asked for.
            warnings.simplefilter("error", getpass.GetPassWarning)
            typed = getpass.getpass(prompt)
            again = getpass.getpass("Once more: ") if repeat else typed
    except (EOFError, getpass.GetPassWarning, NotImplementedError) as exc:  # the last: a notebook that cannot ask
        raise UsageError(
            "There is nobody to ask for the passphrase: put it into the environment variable AINET_PASSPHRASE."
        ) from exc
    if again != typed:
        raise UsageError("The two passphrases differ.")
    return typed
