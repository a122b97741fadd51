"""The kernel class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipykernel.ipkernel import IPythonKernel

from ainet import __version__, load_ipython_extension

if TYPE_CHECKING:
    from ipykernel.zmqshell import ZMQInteractiveShell


class AinetKernel(IPythonKernel):
    """An IPython kernel with the ainet magics loaded."""

    implementation = "ainet"
    implementation_version = __version__
    shell: ZMQInteractiveShell

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        load_ipython_extension(self.shell)

    @property
    def banner(self) -> str:  # type: ignore[override]
        """The lines that a console shows first."""
        return f"ainet {__version__}: %%ainet ask puts a question to the node, %ainet shows it.\n{self.shell.banner}"
