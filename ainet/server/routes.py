"""Which handler answers at which address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.server import handlers, notebook_handlers, swarm_handlers

if TYPE_CHECKING:
    from ainet.server.base import NodeHandler

ROUTES: list[tuple[str, type[NodeHandler]]] = [
    (r"/ainet/api/status", handlers.StatusHandler),
    (r"/ainet/api/models", handlers.ModelsHandler),
    (r"/ainet/api/plan", handlers.PlanHandler),
    (r"/ainet/api/generate", handlers.GenerateHandler),
    (r"/ainet/api/pipelines", handlers.PipelinesHandler),
    (r"/ainet/api/pipelines/([^/]+)", handlers.PipelinesHandler),
    (r"/ainet/api/invitations", swarm_handlers.InvitationsHandler),
    (r"/ainet/api/membership", swarm_handlers.MembershipHandler),
    (r"/ainet/api/members", swarm_handlers.MembersHandler),
    (r"/ainet/api/members/([^/]+)", swarm_handlers.MemberHandler),
    (r"/ainet/api/settings", swarm_handlers.SettingsHandler),
    (r"/ainet/api/notebooks", notebook_handlers.NotebooksHandler),
    (r"/ainet/api/notebooks/open", notebook_handlers.OpenNotebookHandler),
    (r"/ainet/api/notebooks/([^/]+)", notebook_handlers.NotebookHandler),
    (r"/ainet/api/introductions", swarm_handlers.IntroductionsHandler),
    (r"/ainet/api/contacts", swarm_handlers.ContactsHandler),
    (r"/ainet/api/contacts/([^/]+)", swarm_handlers.ContactHandler),
    (r"/ainet/api/peers", swarm_handlers.PeersHandler),
    (r"/ainet/api/links", swarm_handlers.LinksHandler),
    (r"/ainet/api/key/export", swarm_handlers.KeyExportHandler),
    (r"/ainet/api/key/import", swarm_handlers.KeyImportHandler),
    (r"/ainet/api/clients", handlers.ClientsHandler),
    (r"/ainet/api/clients/([^/]+)", handlers.ClientHandler),
]
