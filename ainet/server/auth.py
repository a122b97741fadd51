"""The node's own token, which opens the node's routes, and keys, which open the model API: nothing else of Jupyter."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from jupyter_server.auth import IdentityProvider, User

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from ainet.api.access_keys import AccessKey


class AccessKeyIdentity(IdentityProvider):
    """Knows whoever bears a key of the model API. It is asked by the routes of that, and by no other."""

    def __init__(self, key: AccessKey) -> None:
        super().__init__(token="")
        self._key = key

    def get_user(self, handler: RequestHandler) -> User:
        """Return whom the key was given to."""
        return User(username=f"key:{self._key.name}", name=self._key.name)

    def is_token_authenticated(self, handler: RequestHandler) -> bool:
        """No browser sends a key by itself, so there is no cross-site request to fear."""
        return True


class NodeTokenIdentity(IdentityProvider):
    """Knows the owner by the token of the runtime file, which nobody else can read.

    Kernels and the command find the node by this token, however the Jupyter server itself is logged in to: by token,
    password or hub. So no Jupyter token is ever written to the data directory.
    """

    def accepts(self, request_handler: RequestHandler) -> bool:
        """Return whether the request carries the node's token in its ``Authorization`` header.

        A handler with a true attribute `takes_token_from_query` also takes it from the query's ``token``.
        """
        match = self.auth_header_pat.match(request_handler.request.headers.get("Authorization", ""))
        given = match.group(2) if match is not None else ""
        if not given and getattr(request_handler, "takes_token_from_query", False):
            given = request_handler.get_query_argument("token", "")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def get_user(self, handler: RequestHandler) -> User | None:
        """Return the owner of the node, when the token is the right one."""
        return User(username="ainet", name="owner") if self.accepts(handler) else None

    def is_token_authenticated(self, handler: RequestHandler) -> bool:
        """No browser sends this token by itself, so there is no cross-site request to fear."""
        return self.accepts(handler)
