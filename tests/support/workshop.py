"""Pipelines over the Dask workers of a node, without the rest of the node."""

from __future__ import annotations

import logging
import time

import pytest

from ainet.api.generate import Message
from ainet.api.node import Caps
from ainet.config import AinetConfig
from ainet.engine.engine import Engine
from ainet.executor.pipeline import Pipeline, PipelineOptions
from ainet.hosting.fetch import Fetcher
from ainet.hosting.stages import HostedStages
from ainet.identity.identity import Identity
from ainet.links.links import Links
from ainet.placement.capacity import NodeCapacity
from ainet.placement.planner import Planner
from ainet.resources.allocator import Allocator
from ainet.resources.speeds import Speeds
from ainet.stages.protocol.generation import Done, Open, Text
from ainet.stages.protocol.sampling_params import SamplingParams
from ainet.stages.protocol.spec import EXACT_UBATCH
from ainet.timing import TIMING, Timing
from support.smollm2 import CHUNK, N_CTX

QUESTION = "Tell me a long story about a fox, a dog and a river."
GREEDY = SamplingParams(temperature=0)
LOG = logging.getLogger("test")
OPTIONS = PipelineOptions(sessions=4, queue=4, kept_tokens=2048, exact=False, speculate=False, hidden_states="float32")


class Workshop:
    """What a pipeline needs of a node, without the node."""

    def __init__(self, config: AinetConfig, engine: Engine, store, manifest, timing: Timing) -> None:
        self.identity = Identity.open(config.make_data_dir(), "node")
        self.links = Links(self.identity, config, LOG)
        self.allocator = Allocator(Caps(memory=10**9, threads=4, disk=10**9))
        self.manifest = manifest
        self.pipelines: list[Pipeline] = []
        self.speeds = Speeds(config.make_data_dir(), LOG)
        self.service = HostedStages(
            identity=self.identity,
            links=self.links,
            engine=engine,
            allocator=self.allocator,
            store=store,
            fetcher=Fetcher(store, self.links),
            speeds=self.speeds,
            log=LOG,
            timing=timing,
        )

    async def load(self, n_stages: int, progress=lambda _: None, **options) -> Pipeline:
        memory = self.allocator.free.memory + self.service.parking.memory.host
        offer = NodeCapacity(node=self.identity.id, name="node", memory=memory, threads=1, speed=5e9)
        n_ubatch = EXACT_UBATCH if options.get("exact") else CHUNK
        plan = Planner(self.manifest, [offer], n_ctx=N_CTX, n_ubatch=n_ubatch).plan(n_stages)
        pipeline = Pipeline(
            plan,
            self.manifest,
            [self.identity.id],
            unforced=False,
            identity=self.identity,
            service=self.service,
            links=self.links,
            options=OPTIONS._replace(**options),
            log=LOG,
        )
        self.pipelines.append(pipeline)
        await pipeline.load(progress)
        return pipeline


@pytest.fixture
def timing():
    """How long things wait; a test that wants it otherwise has it as a parameter."""
    return TIMING


@pytest.fixture
async def workshop(tmp_path, smollm2_store, smollm2_manifest, timing):
    config = AinetConfig(data_dir=str(tmp_path / "node"), name="node")
    async with Engine(config, config.make_data_dir(), LOG) as engine:
        workshop = Workshop(config, engine, smollm2_store, smollm2_manifest, timing)
        yield workshop
        for pipeline in workshop.pipelines:
            await pipeline.close()
        assert workshop.allocator.reserved.memory == 0


def ask(sampling=GREEDY, max_tokens=200, question=QUESTION):
    messages = [Message("user", question)]
    return Open(session=0, messages=messages, raw=False, sampling=sampling, max_tokens=max_tokens)


async def answer(pipeline, request):
    tokens, text = [], ""
    async for event in pipeline.ask(request):
        if isinstance(event, Text):
            tokens += event.tokens
        if isinstance(event, Text | Done):
            text += event.text
    return tokens, text


async def in_workers(service, pipeline, function):
    """Run a function in every worker of this node that holds a stage of a pipeline; return what each returned.

    It must be an inner function: one of a module would have the workers import that, and say nothing meanwhile.
    """
    workers = [stage.worker.address for stage in service.stages(pipeline.name)]
    return list((await service.engine.client.run(function, workers=workers)).values())


async def pause(service, pipeline, *at, seconds=2.0):
    """Have the last stage of a pipeline pause, each time an answer has this many tokens.

    So what is done to an answer then is done while it runs, however late. Who is told to end does so at once.
    """

    def prepare():
        import functools

        from ainet.stages.stage import Stage

        process = getattr(Stage._process, "__wrapped__", Stage._process)
        end = getattr(Stage._end, "__wrapped__", Stage._end)
        left, ending = sorted(at), []

        @functools.wraps(process)
        def pausing(stage, *arguments):
            sessions = stage._head._active.values() if stage._head is not None else ()
            if left and any(len(session.generated) >= left[0] for session in sessions):
                del left[0]
                until = time.monotonic() + seconds
                while time.monotonic() < until and stage not in ending:
                    time.sleep(0.005)
            process(stage, *arguments)

        @functools.wraps(end)
        def told(stage):
            ending.append(stage)
            return end(stage)

        Stage._process, Stage._end = pausing, told

    await in_workers(service, pipeline, prepare)
