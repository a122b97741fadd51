"""What a node keeps: documents that several devices edit."""

from ainet.storage.document import Document, Incomplete
from ainet.storage.document_store import DocumentStore

__all__ = ["Document", "DocumentStore", "Incomplete"]
