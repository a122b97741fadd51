"""The node's side of the process that converts and reads whole models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ainet.engine.child import ChildProcess
from ainet.errors import AinetError, ModelError

if TYPE_CHECKING:
    import logging
    from pathlib import Path
    from types import TracebackType

    from ainet.models.tensors import Progress


class QuantisingProcess:
    """Does one thing at a time, for as long as it takes; leaving the context ends it, whatever it does.

    Parameters
    ----------
    data_dir
        The node's data directory.
    log
        For the end of the process.
    threads
        The threads that it computes with.
    """

    def __init__(self, data_dir: Path, log: logging.Logger, threads: int) -> None:
        self._threads = threads
        self._child = ChildProcess("ainet.quantising.program", data_dir, log)
        self._child.on_message = self._receive
        self._progress: Progress = lambda _done, _total: None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._child.pid

    async def __aenter__(self) -> QuantisingProcess:
        await self._child.start(threads=self._threads)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._child.stop()

    async def ask(self, operation: str, progress: Progress | None = None, **parameters: Any) -> Any:
        """Have something done, and return what was found.

        Raises
        ------
        AinetError
            It cannot be done, or llama.cpp ended the process.
        """
        self._progress = progress or (lambda _done, _total: None)
        try:
            answer = await self._child.request(operation, math.inf, **parameters)
        except AinetError as exc:
            if self._child.running:
                raise
            raise ModelError(
                f"llama.cpp ended its process ({self._child.exit_code}). Its last words are in {self._child.log_path}."
            ) from exc
        if "refused" in answer:
            raise AinetError.from_dict(answer["refused"])
        return answer["found"]

    def _receive(self, message: dict[str, Any]) -> None:
        if "total" in message:
            self._progress(message["done"], message["total"])
