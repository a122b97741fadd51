"""What a worker that holds a stage has loaded: nothing that only the server needs."""

from __future__ import annotations

from support.workshop import ask, in_workers

#: Multicast DNS, documents that several devices edit, the Jupyter server, and all of ainet that is about others.
#: (SQLite is not among them: llama-cpp-python loads it, for a cache that is not used here.)
FOREIGN = (
    "zeroconf",
    "pycrdt",
    "jupyter_server",
    "ainet.links",
    "ainet.pairing",
    "ainet.swarm",
    "ainet.documents",
    "ainet.sharing",
    "ainet.hosting",
    "ainet.executor",
    "ainet.node",
    "ainet.server",
)


async def test_a_stages_worker_has_loaded_nothing_that_only_the_server_needs(workshop):
    pipeline = await workshop.load(2)
    async for _ in pipeline.ask(ask(max_tokens=4)):
        pass

    def loaded():
        import sys

        return sorted(sys.modules)

    for modules in await in_workers(workshop.service, pipeline, loaded):
        assert "ainet.stages.stage" in modules
        assert "llama_cpp" in modules
        foreign = [name for name in modules if name.startswith(FOREIGN)]
        assert not foreign
