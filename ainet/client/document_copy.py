"""A kernel's copy of a shared document, kept in step with the node's in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pycrdt import Doc, YMessageType, YSyncMessageType, create_sync_message, create_update_message
from pycrdt import read_message as read_payload
from pycrdt import write_message as write_payload

from ainet.daemon.runtime import wait_until_ready
from ainet.errors import AinetError, NodeNotRunning

if TYPE_CHECKING:
    from pathlib import Path

    from pycrdt import TransactionEvent
    from tornado.websocket import WebSocketClientConnection

#: A node that has gone is looked for this often (s).
RETRY = 1.0
#: The node's copy must have arrived in this time (s).
FIRST_SYNC = 10.0
MAX_MESSAGE = 64 * 1024 * 1024  # bytes
ENDED = 4410  # how a node closes the connection that does not have the document any more
NOTHING = b"\0\0"


class DocumentCopy:
    """One document. Edits made while no node is there are exchanged when one is back.

    Parameters
    ----------
    data_dir
        The node's data directory.
    name
        Name of the document, such as ``shared/plan``.

    Raises
    ------
    NodeNotRunning
        No node runs there, or it does not answer.
    AinetError
        The node refuses the document.
    """

    def __init__(self, data_dir: Path, name: str) -> None:
        wait_until_ready(data_dir)
        self.doc: Doc[Any] = Doc(allow_multithreading=True)
        #: Held while the document is read or changed.
        self.lock = threading.RLock()
        self.name = name
        self._data_dir = data_dir
        self._synced = threading.Event()
        self._refused: AinetError | None = None
        self._remote = False
        self._connection: WebSocketClientConnection | None = None
        self._subscription = self.doc.observe(self._changed)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"ainet {name}", daemon=True)
        self._thread.start()
        if not self._synced.wait(FIRST_SYNC) or self._refused is not None:
            self.close()
            raise self._refused or NodeNotRunning(
                f"The node did not send {name} within {FIRST_SYNC:g} seconds. `ainet logs` may say why."
            )

    @property
    def is_remote(self) -> bool:
        """Whether the change that is being noticed came from elsewhere."""
        return self._remote

    @property
    def connected(self) -> bool:
        """Whether the node has the changes that are made now."""
        return self._connection is not None

    @property
    def ended(self) -> bool:
        """Whether it is kept in step no more."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop keeping in step."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._keep())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _keep(self) -> None:
        from tornado.httpclient import HTTPClientError, HTTPRequest
        from tornado.websocket import WebSocketError, websocket_connect

        while True:
            try:
                node = await asyncio.to_thread(wait_until_ready, self._data_dir)
                url = f"ws{node.url.removeprefix('http')}ainet/api/sync/{quote(self.name, safe='/')}"
                request = HTTPRequest(url, headers={"Authorization": f"Bearer {node.token}"})
                connection = await websocket_connect(request, max_message_size=MAX_MESSAGE)
                try:
                    await self._follow(connection)
                    if connection.close_code == ENDED:
                        return  # what it was with others, it must not become in another swarm
                finally:
                    self._connection = None
                    stream = connection.protocol.stream if connection.protocol is not None else None
                    connection.close()
                    if stream is not None:
                        stream.close()  # the loop may end before the closing handshake does
            except HTTPClientError as exc:
                if exc.code < 500 and not self._synced.is_set():
                    self._refused = AinetError(f"The node does not share {self.name} (HTTP status {exc.code}).")
                    self._synced.set()
                    return
            except (AinetError, OSError, WebSocketError):
                pass  # it has stopped, or is about to start again
            await asyncio.sleep(RETRY)

    async def _follow(self, connection: WebSocketClientConnection) -> None:
        with self.lock:
            await connection.write_message(create_sync_message(self.doc), binary=True)
        while (message := await connection.read_message()) is not None:
            if not isinstance(message, bytes) or message[0] != YMessageType.SYNC:
                continue
            payload = read_payload(message[2:])
            if message[1] == YSyncMessageType.SYNC_STEP1:
                with self.lock:
                    update = self.doc.get_update(payload)
                    self._connection = connection  # what is changed from now on follows the answer
                step2 = bytes([YMessageType.SYNC, YSyncMessageType.SYNC_STEP2]) + write_payload(update)
                await connection.write_message(step2, binary=True)
                continue
            with self.lock:
                self._remote = True
                try:
                    self.doc.apply_update(payload)
                finally:
                    self._remote = False
            if message[1] == YSyncMessageType.SYNC_STEP2:
                self._synced.set()

    def _changed(self, event: TransactionEvent) -> None:
        if not self._remote and event.update != NOTHING:
            message = create_update_message(event.update)
            with contextlib.suppress(RuntimeError):  # closed
                self._loop.call_soon_threadsafe(self._send, message)

    def _send(self, message: bytes) -> None:
        if self._connection is not None:
            from tornado.websocket import WebSocketClosedError

            # A lost connection is followed by another one, which begins with an exchange of all that is missing.
            with contextlib.suppress(WebSocketClosedError):
                self._connection.write_message(message, binary=True)
