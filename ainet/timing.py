"""The times that devices, and the processes of one device, wait for each other.

What concerns one module alone stays there. Here is what stands in relation to other waiting, so that the relations can
be seen, and are asserted, in one place (`tests/unit/test_timing.py`). What an owner decides is in `ainet.config`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds. Whoever waits is given a `Timing`; a test gives another one."""

    # Links between nodes

    #: A connection to an address is made within this time.
    dial: float = 5.0
    #: Whoever has connected says who it is within this time.
    greeting: float = 10.0
    #: A stranger's link that was not used for this long is closed; after the shorter time, if others want to come.
    stranger_unused: float = 15.0
    stranger_idle: float = 1.0
    #: Who waits for a place is told how many come first, again after this time.
    place_told: float = 2.0
    #: A request that names no time of its own is answered within this time.
    answer: float = 60.0
    #: A channel without a link for longer ends.
    resume: float = 30.0
    #: A member that could not be reached is dialled again after this time, and then after twice as long each time,
    first_retry: float = 1.0
    #: but never after more than this.
    last_retry: float = 15.0
    #: Both devices say what pairing needs of them within this time.
    pairing: float = 20.0

    # The ring of stages

    #: A stage gives a sign of life this often;
    alive: float = 1.0
    #: one that gave none for this long is lost.
    silence: float = 3.0
    #: Before the first sign of life: the stages of a pipeline do not begin at the same moment.
    first_silence: float = 15.0
    #: Where a forwarder lies in between, a short outage is only a pause.
    forwarded_silence: float = 16.0
    #: What a requester's device has not confirmed for this long does not arrive any more.
    vanished: float = 5.0
    #: A stage connects to the next one, and shakes hands, within this time.
    ring_dial: float = 10.0
    #: Whoever has connected to a stage proves who it is within this time: the stage waits for its neighbour meanwhile.
    ring_greeting: float = 2.0
    #: A requester says what it wants of the last stage within this time.
    session_greeting: float = 10.0
    #: Sessions of a requester that has left go on for this long: its pipeline may be about to be placed again.
    session_left: float = 1.0
    #: Whoever asked for a session of a lost pipeline comes back in this time, or its cells are freed.
    claim: float = 20.0
    #: What a generation is taken to last before one was measured.
    first_generation: float = 10.0
    #: Text may wait this long for more of it; nobody reads faster.
    gather: float = 0.03
    #: A decode thread that is told to stop does so within this time, unless it waits for a neighbour.
    stage_stop: float = 1.0

    # What a node does for pipelines

    #: What is held for a member is given up when it was away for this long; a broken link is dialled again sooner.
    owner_grace: float = 10.0
    #: Whether a member is back is asked this often.
    owner_look: float = 0.2
    #: Models of a lost pipeline stay loaded for this long: it is about to be placed again.
    park: float = 20.0
    #: A worker must answer within this time to be closed in an orderly way.
    stage_close: float = 4.0
    #: Whoever asks for a model hears this often that its file is still being read.
    reading_told: float = 1.0
    #: Sources that all failed are tried again after this time.
    fetch_pause: float = 1.0
    #: Pieces of a tensor grow as long as none is waited for longer than this.
    piece_quick: float = 0.5
    #: A source that sends too little during this time is left.
    piece_rate: float = 20.0

    # Who asks

    #: An answer that has lost devices waits this long for them to come back,
    devices_awaited: float = 120.0
    #: and looks again this often.
    devices_looked_for: float = 2.0
    #: A connection to the last stage is made, and answered, within this time.
    session_dial: float = 10.0
    #: A device connects its stage within this time.
    pipeline_link: float = 30.0
    #: A device unloads its stages within this time.
    pipeline_close: float = 15.0
    #: A device whose link was lost may be away for this long before its pipelines are given up.
    owner_away: float = 5.0
    #: Idle pipelines are looked for this often.
    pool_sweep: float = 5.0
    #: Devices that were away are told this often what has ended meanwhile, until they know.
    untold_again: float = 1.0
    #: A member that does not say within this time how busy its pipeline is, is not asked to answer.
    load_asked: float = 1.0
    #: After a replica was not found worth while, none is looked for this long.
    replica_again: float = 30.0
    #: A broken pipeline usually ends within this time, and its workers can be used again.
    settle: float = 1.0
    #: A pipeline that did not answer is not asked again for this long: its owner may not have noticed yet.
    avoid: float = 10.0
    #: A member that says nothing of a model for this long is not waited for.
    finder_patience: float = 5.0
    #: A member that does not describe itself within this time is left out of a plan.
    capacity_asked: float = 5.0
    #: Bandwidths are measured for this long before a plan.
    distance_measured: float = 2.0

    # What members agree on

    #: Who waits for a lease looks again this often, also when it hears nothing.
    lease_look: float = 1.0
    #: A member that does not answer within this time has no say.
    lease_ask: float = 5.0
    #: Who was granted a lease says within this time that it holds it; later the grant is void.
    lease_grant: float = 60.0

    # Processes of this device

    #: A child process starts within this time: 2 to 5 s on a slow machine; a loaded one may need much longer.
    child_start: float = 60.0
    #: A child process that was told to end is killed after this time; it bounds itself by `child_orderly`.
    child_stop: float = 8.0
    #: An orderly end may take this long; then the process ends anyhow, and everything beneath it with it.
    child_orderly: float = 5.0
    #: Killed processes are gone within this time, unless the kernel itself is stuck.
    child_kill: float = 1.0
    #: New workers must be connected within this time; 0.5 s on an idle machine.
    worker_start: float = 60.0
    #: An existing scheduler must answer within this time.
    cluster_dial: float = 5.0
    #: A client whose scheduler is gone gets this long to close.
    cluster_close: float = 2.0
    #: Workers that were used are kept for this long: whoever comes next then need not wait for one to start.
    worker_idle: float = 30.0
    #: What stages compute is looked at this often.
    stages_measured: float = 5.0
    #: What is kept for other devices is counted this often.
    kept_counted: float = 600.0
    #: A member says what it did within this time, where the owner waits for it.
    usage_asked: float = 3.0
    #: A spare worker starts this long after a stage was loaded: the other stages of its pipeline come first.
    spare_start: float = 2.0
    #: Whoever is asked to give a worker back has this long.
    worker_return: float = 5.0
    #: A worker of the node's own cluster reports this often.
    heartbeat: float = 10.0
    #: A device of which another run appears must answer within this time, or has been restarted.
    twin: float = 1.0
    #: A device that was refused since it has a twin leaves the others alone for this time.
    twin_pause: float = 300.0
    #: The parts of a node stop within this time, all together; then the engine's processes are ended.
    stop_steps: float = 3.0
    #: A headless server may take this long to stop; then all of it is killed.
    server_stop: float = 9.0
    #: A node that was told to stop is killed after this time; it bounds itself by `server_stop`.
    node_stop: float = 10.0
    #: A node starts, or stops, within this time: Dask's imports on a slow, busy device.
    node_start: float = 120.0

    # The context

    #: Folders are looked through this often.
    context_look: float = 300.0
    #: A worker that reads files is given back when there was nothing to read for this long.
    context_idle: float = 60.0
    #: A file must be read within this time.
    parse: float = 60.0
    #: The worker with the vectors of passages ends when nobody asked it for this long.
    vectors_idle: float = 600.0
    #: A question waits this long for vectors: their worker may have to start.
    vectors_asked: float = 10.0
    #: The worker answers within this time; writing the vectors of a million passages anew takes minutes.
    vectors: float = 900.0
    #: Whether a worker is free to read files is asked this often.
    context_again: float = 5.0
    #: While a folder is read, what has become known is passed on this often.
    context_told: float = 2.0
    #: What changes within this time is told to the owner's other devices at once.
    context_gather: float = 0.3

    # Buying and selling

    #: Both sides show what they hold of an account within this time.
    meeting: float = 15.0
    #: A session whose other side says nothing, or pays nothing, for this long ends.
    session_silence: float = 30.0
    #: What is not acknowledged this long after a session has ended is written off.
    voucher_late: float = 5.0
    #: Sellers say their prices within this time.
    price_asked: float = 3.0
    #: A seller that says only that it gets ready is left after this time,
    getting_ready: float = 600.0
    #: and one that was asked to check an answer, after this time: the answer is there, and somebody waits for it.
    check_bought: float = 120.0
    #: Whether others have had their part of the time is looked at this often.
    sold_load: float = 1.0
    #: A device is measured against itself when nothing was checked for this long.
    measured_after: float = 60.0
    #: A vocabulary is fetched, loaded and asked within this time.
    tokenizer: float = 60.0
    #: The worker that knows vocabularies ends when nobody asked it for this long.
    tokenizer_idle: float = 120.0

    # Workers that are lent

    #: A member has started the worker that it lends within this time.
    lend: float = 60.0
    #: A member has taken back the worker that it lent within this time; it ends with its scheduler anyway.
    take_back: float = 10.0
    #: A cluster to which nobody's client was connected for this long ends.
    client_idle: float = 60.0
    #: The scheduler of a cluster answers its node within this time.
    client_asked: float = 10.0
    #: The scheduler must have accepted a worker within this time.
    lent_dial: float = 6.0
    #: A worker that does not answer for this long is not waited for.
    lent_told: float = 3.0


#: Those of a node.
TIMING = Timing()
