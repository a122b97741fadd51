"""The extension: starts the node with the Jupyter server and stops it with it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jupyter_server.extension.application import ExtensionApp
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from traitlets import Bool, TraitError, Type, Unicode, default
from traitlets.config import Config
from traitlets.config.loader import JSONFileConfigLoader

from ainet.config import CONFIG_FILE, AinetConfig
from ainet.daemon.log import FAILED, LogFile
from ainet.daemon.runtime import NodeLock, Runtime
from ainet.errors import AinetError, NodeNotRunning, NodeTaken, UsageError
from ainet.server.served import SETTING, Served

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

    from ainet.node.node import Node


class AinetExtension(ExtensionApp):
    """ainet inside a Jupyter server."""

    name = "ainet"
    description = Unicode("Make this Jupyter server a node of the owner's AI network.")
    classes = [AinetConfig]  # noqa: RUF012
    extension_url = "/"

    headless = Bool(False, help="Whether the server is there for the node alone, and ends when it cannot start.").tag(
        config=True
    )
    node_class = Type(klass=object, help="The class of the node.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: The node, for the routes.
        self.served = Served()
        self.failed = False
        self._stopping: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._lock: NodeLock | None = None
        self._listener: HTTPServer | None = None
        self._log_file: LogFile | None = None

    @default("node_class")
    def _default_node_class(self) -> type:
        from ainet.node.node import Node

        return Node

    def initialize_settings(self) -> None:
        """Let the routes know the node."""
        self.settings[SETTING] = self.served

    def initialize_handlers(self) -> None:
        from ainet.server.model_api.handlers import routes as model_routes
        from ainet.server.peer import PeerHandler
        from ainet.server.sync import SyncHandler
        from ainet.server.verbs import routes

        self.handlers.extend(
            [*routes(), *model_routes(), (r"/ainet/api/sync/(.+)", SyncHandler), (r"/ainet/peer", PeerHandler)]
        )

    def make_config(self, server_options: Config) -> AinetConfig:
        """Return the node's configuration: Jupyter's files, then the data directory's, then the command line.

        Parameters
        ----------
        server_options
            The command line of the Jupyter server.

        Raises
        ------
        UsageError
            A setting has an impossible value.
        """
        config = Config()
        try:
            config.AinetConfig.merge(self.config.AinetConfig)
            data_dir = str(Path(AinetConfig(config=config).data_dir).expanduser().absolute())
            config.AinetConfig.merge(read_config_file(Path(data_dir)))
            for command_line in (server_options, self.cli_config):
                config.AinetConfig.merge(command_line.AinetConfig)
            config.AinetConfig.data_dir = data_dir
            return AinetConfig(config=config)
        except TraitError as exc:
            raise UsageError(str(exc)) from exc

    async def _start_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        if self._stopping is not None:
            return
        self._starting = asyncio.create_task(self._start_node(serverapp))
        await asyncio.wait([self._starting])

    async def _start_node(self, serverapp: ServerApp) -> None:
        try:
            config = self.make_config(serverapp.cli_config)
            data_dir = config.make_data_dir()
            # Kernels of this server inherit it, and so find this node.
            os.environ["AINET_DATA_DIR"] = str(data_dir)
            lock = NodeLock(data_dir)
            lock.acquire()
            self._lock = lock
            self._log_file = LogFile(data_dir, [self.log, serverapp.log] if self.headless else [self.log])
            self.served.url = self._listen(serverapp)
            node = cast("type[Node]", self.node_class)(config, log=self.log, url=self.served.url)
            try:
                await node.start()
            except BaseException:
                await node.stop()
                raise
            self.served.node = node
            await node.open_notebooks(serverapp.contents_manager, self._live_document)
            runtime = Runtime(os.getpid(), self.served.url, self.served.identity.token, time.time(), self.headless)
            lock.publish(runtime)
            self.log.info("The node %s is ready (%s).", node.name, data_dir)
        except NodeTaken as taken:
            self._give_up(taken)
            self.log.warning("%s This server's notebooks use that one.", taken.message)
        except AinetError as error:
            self._give_up(error)
            self.log.error("%s%s", FAILED, error.message)
        except Exception as exc:
            self._give_up(AinetError(f"{type(exc).__name__}: {exc}"))
            self.log.exception("%s%s: %s", FAILED, type(exc).__name__, exc)
        finally:
            if self.failed:
                self._release()
                if self.headless:
                    serverapp.stop()

    async def _live_document(self, path: str) -> Any:
        """Return jupyter-collaboration's live document of a notebook; None while nobody has it open."""
        assert self.serverapp is not None  # noqa: S101 - the node was started by it
        live = self.serverapp.web_app.settings.get("jupyter_server_ydoc")
        if live is None:
            return None
        given = {"path": path, "content_type": "notebook", "file_format": "json"}
        return await live.get_document(**given, copy=False, create=False)

    def _give_up(self, error: AinetError) -> None:
        self.failed = True
        self.served.failure = error if isinstance(error, NodeTaken) else NodeNotRunning(f"{FAILED}{error.message}")

    def _listen(self, serverapp: ServerApp) -> str:
        """Return an address for this device's own processes: plain HTTP on the loopback interface."""
        port = serverapp.port
        on_loopback = serverapp.ip in {"", "*", "0.0.0.0", "127.0.0.1", "localhost"}  # noqa: S104
        if serverapp.certfile or serverapp.sock or not on_loopback:
            sockets = bind_sockets(0, "127.0.0.1")
            self._listener = HTTPServer(serverapp.web_app)
            self._listener.add_sockets(sockets)
            port = sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}{serverapp.base_url}"

    async def stop_extension(self) -> None:
        """Stop the node, also in the middle of its start or before it; a second call waits for the first."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop_node())
        await asyncio.shield(self._stopping)

    async def _stop_node(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self.served.failure = NodeNotRunning("The node has stopped.")
        node, self.served.node = self.served.node, None
        try:
            if node is not None:
                await node.stop()
        except Exception as exc:  # Jupyter, too, has to stop
            self.log.warning("The node did not stop cleanly: %s: %s", type(exc).__name__, exc)
        finally:
            self._release()

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        for held in (self._lock, self._log_file):
            try:
                if held is not None:
                    held.close()
            except OSError as exc:  # the folder may be gone, or take no more changes
                self.log.warning("%s: %s", exc.filename or "The data directory", exc.strerror)
        self._lock = self._log_file = None


def read_config_file(data_dir: Path) -> Config:
    """Return the `AinetConfig` section of the data directory's own configuration file.

    Raises
    ------
    UsageError
        The file is not JSON.
    """
    path = data_dir / CONFIG_FILE
    if not path.exists():
        return Config()
    try:
        return JSONFileConfigLoader(path.name, path=str(data_dir)).load_config().AinetConfig
    except ValueError as exc:
        raise UsageError(f"{path} is not a JSON configuration: {exc}. Correct it or delete it.") from exc
