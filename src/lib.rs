//! Outrigger, a Redis sidecar: any number of unmodified Redis clients talk to a real Redis over a handful of
//! connections.
//!
//! This page is the map of the code. What the program does for its users is in the README.
//!
//! # The life of a command
//!
//! ```text
//! client socket ─▶ session ──▶ route ──▶ lane: shared upstream connection ──▶ Redis
//!                     │          ├──▶ block: what is queued since MULTI ──EXEC──▶ lane
//!                     │          ├──▶ feed: the connection that brings messages (SUBSCRIBE, …)
//!                     │          ├──▶ local answer (PING, HELLO, SELECT, CLIENT SETNAME, …)
//!    reply queue ◀────┘          ├──▶ degraded answer (no Redis: GET → nil, INCR → -UNAVAILABLE)
//!    (client order)              └──▶ lease: an upstream connection of the client's own (WATCH, BLPOP, …)
//!         ▲
//!         └──────── in-flight queue of the upstream connection (pairs reply with request)
//! ```
//!
//! Two queues explain the whole proxy, and the idea is twemproxy's. The *in-flight queue* of each upstream connection
//! pairs replies with requests: Redis answers in order, so the next reply belongs to the oldest entry. The *reply queue*
//! of each client restores the client's order where answers come from different places.
//!
//! To follow one `GET` in the code:
//!
//! 1. `client/session.rs`, `Session::drive`: the client's task is woken because its socket is readable. In
//!    `session/intake.rs` it reads into the worker's buffer, and `take`s one request after the other.
//! 2. [`resp::request`] finds the request's end and its name, [`command::route`] decides that it is shared.
//! 3. `upstream.rs`, `Upstream::reserve` asks the breaker, and chooses a connection of the client's lane; `send` appends the request's bytes to
//!    that connection's outgoing queue and an entry to its in-flight queue, and wakes the connection's task.
//! 4. `upstream/connection.rs`, `Connection::turn`: when all readable clients have had their turn, everything queued
//!    leaves in one write. When replies arrive, [`resp::reply`] finds their ends, and each is handed to its client.
//! 5. `client/session/output.rs`, `Session::deliver` and `flush`: at the end of the batch all replies of one client leave in one
//!    write, straight from the buffer they were read into.
//!
//! # The life of a transaction
//!
//! MULTI and the commands behind it are answered in `client/session/transaction.rs` and kept in a `client/transaction.rs`,
//! `Block`, which judges them as the server at hand would. At EXEC the block is sent as *one* request: one entry in the in-flight
//! queue, which ends behind EXEC's last byte. So whether it was sent, its deadline, its repeat and its tombstone are those
//! of any request. The replies that come before EXEC's are its *preface*: `upstream/connection/block.rs` counts and checks
//! them, and shows them to nobody. A client without an open block pays one test for this, and so does a reply while no
//! block is in flight.
//!
//! # A connection of one's own
//!
//! What cannot share a connection goes over a *lease*. `session/acquire.rs` asks for one and waits, `session/hold.rs` sends over
//! it and knows until when it is kept; `upstream/lease.rs` finds it: a *slot* of the process-wide quota (`upstream/quota.rs`) first, which keeps reserves for lanes and
//! for leases that do not block, then an idle connection, one that is switched, or a new one. The
//! handle is owned: whoever drops it closes the connection, and with it everything left behind there.
//!
//! The server knows a leased connection by an id of its own, and the client knows itself by one of ours: `client/ids.rs` and
//! `session/retold.rs` put one for the other. What an open MULTI sets on its connection is known when its EXEC is answered.
//!
//! SCRIPT KILL, FUNCTION KILL and SHUTDOWN go over a connection made for that one request (`upstream/control.rs`): a server that
//! runs a script answers little else, and all other connections may be stuck behind it.
//!
//! # When Redis does not answer
//!
//! Two parts answer two questions, and neither sets the other's state. The *breaker* ([`upstream::breaker`]): may a request
//! try? The *supervisor* ([`upstream::supervisor`]): may somebody dial? Both are pure, shared by all workers
//! (`upstream/shared.rs`), and told what happened:
//!
//! ```text
//!  connection lost ───────▶ loss: asked again once, or failed ──▶ unserved: empty answer or error ──▶ client
//!  deadline, silence ─────▶ watch: fail, sideline, trip             ▲
//!  dial failed ───────────▶ dialling: nobody waits any more ────────┤
//!  breaker open, overload ▶ reserve: not let through ───────────────┘
//! ```
//!
//! To follow an outage: the connection's task reads the end of the stream, `Upstream::lose` (`upstream/loss.rs`) takes back
//! what was in flight and parks the reads; the lane dials (`upstream/dialling.rs`) and is refused; the supervisor's link is
//! *down*, every worker is told, and what is parked fails. `client/unserved.rs` asks [`command::degrade`] what each request
//! is answered. From now on `reserve` refuses at once. `Shared::watch` sends a worker to probe when the supervisor says so;
//! the first connection that is made raises the breaker to half-open or the link to *recovering*. What the log says while it
//! lasts is in `upstream/absence.rs`.
//!
//! # Subscribers
//!
//! Each worker has one connection for all its subscribers, the *feed* (`upstream/subscription.rs`), whatever their number and
//! protocol. It speaks RESP2; messages differ from those of RESP3 in their first byte only.
//!
//! ```text
//!   SUBSCRIBE c ─▶ session/subscriber.rs ─▶ register: who hears what ─▶ feed ─▶ Redis
//!                         ▲  ▲                 ledger: whose answer is due        │
//!      acknowledgement ───┘  └─── messages, from the buffer they came in ◀────────┘
//! ```
//!
//! A client's request becomes one command there, and takes effect with the server's answer: between the same two messages as
//! on a connection of its own. UNSUBSCRIBE of a topic that others go on hearing is a PING upstream, which keeps that order.
//! So is a subscriber's own PING, whose pong then comes behind what was published before it. What the client asked next
//! waits meanwhile: it would be answered too soon. Messages of one topic that come together are handed to each hearer as one
//! stretch of the buffer (a copy of it, with the other first bytes, serves all hearers in RESP3), and each client's leave in
//! one write.
//!
//! Many clients publish, or have others publish, without waiting to be told that they are subscribed. PUBLISH goes over a lane,
//! where it would be faster than the SUBSCRIBE before it, above all when the feed has to be made first. So it waits until
//! those are subscribed who have asked before it, and those are not any more who have left, for half a second at most.
//!
//! When the feed is lost its hearers may have missed something. They are disconnected, once they have the replies that are
//! due, or subscribed again over a new feed. It is dialled like the connections of a lane: it has a lane of its own.
//!
//! # The end
//!
//! SIGTERM begins a drain (`lifecycle/drain.rs`), whose stages every worker is told. From the first on, a session that is at
//! rest ends (`session/parting.rs`): behind what is due to it, its client reads the end of the stream, and what it still
//! sends is thrown away for a second, lest a reset overtake the last reply. Those that block are released by the server
//! (`Upstream::release_all`), as when they make room for others, so that it knows whether they were served. After the last
//! call nothing is read any more.
//!
//! # Modules, in reading order
//!
//! | module | what it holds |
//! |---|---|
//! | [`resp`] | where requests and replies begin and end; building the replies of our own |
//! | [`command`] | facts about commands, where each request goes, and what it is answered while Redis cannot be asked: pure decisions |
//! | `buffer` | byte queues, and the budget of memory they take |
//! | `transport` | a socket of any kind |
//! | `version` | what this build is; `build` asks the compiler |
//! | [`upstream`] | one worker's side towards Redis: lanes, connections, dialling, the pool's bound; breaker and supervisor |
//! | [`client`] | one worker's clients: sessions, reply queues, local answers; listeners |
//! | `worker` | the thread that owns both sides, and the tasks that drive them |
//! | [`config`] | what was typed, and what is meant |
//! | [`check`] | `outrigger check` |
//! | [`explain`] | `outrigger explain` |
//! | [`inject`] | `outrigger inject` and `uninject`: manifests read with their positions, what to change decided on what they say, and carried out on their text |
//! | [`webhook`] | `outrigger webhook`: the same decisions for pods that the API server asks about, as JSON patches over HTTPS |
//! | [`observe`] | what is shown: the log, metrics, the slow log, the last minutes |
//! | [`http`] | HTTP ports: sockets, connections and their limits |
//! | [`lifecycle`] | how far the process is: components that start, signals, what is read again, the drain |
//! | [`secret`] | passwords that are replaced while they are in use |
//! | [`admin`] | the HTTP port: probes, health, metrics, the status page, the drill; `outrigger wait` and `outrigger healthcheck` |
//! | [`app`] | composition: the table of components, from the first to the last |
//!
//! Dependencies point one way: `main → app → worker → client → {command, upstream} → {resp, buffer, transport}`, with
//! `config` above the parts whose settings it fills in. `admin` looks at `client`, `upstream` and `lifecycle`, which do not
//! know it. `inject` asks `config` which flags there are, and `webhook` asks `inject`. `resp` and `command` are leaves. A test holds the source against
//! this.
//!
//! # Threads, tasks, and who owns what
//!
//! | | owns | ends |
//! |---|---|---|
//! | main thread | components, signals, the supervisor's loop, files that are read again | when it has drained |
//! | a task for each listener | its socket | when the drain begins to close clients; who is connected by then is taken in |
//! | worker threads (`--workers`) | their clients and upstream connections outright, in one state that is borrowed for one poll at a time and never across an await | with the process; the drain's stages reach them over a `watch` |
//! | HTTP thread | its connections, the question whether Redis answers, the drill, the history of the last minutes; of the rest it reads what is shared | with the process |
//! | a task for each client | nothing: it calls `Clients::drive` | when the session is over |
//! | a task for each upstream connection | nothing: it calls `Upstream::drive` | when the connection is gone |
//! | a task for each control request | the connection it makes | with an `Event` to its worker |
//! | a task for each dial or switch | the socket being made, and its permit | with an `Event` to its worker; two that a server took and does not answer may go on for ten minutes |
//!
//! # Invariants
//!
//! - Nothing on the path of an ordinary request crosses a thread, takes a lock, starts a task, arms a timer, or allocates. Workers meet
//!   only in the count of permits (at dial and close), the breaker's word (one load a batch), breaker and supervisor (ten
//!   times a second for each connection, at dial and loss, and for trials), the names of those who are answered without Redis,
//!   the counters of what is rare (leases, repeats, time-outs, departures) and the slow log, the memory budget (when a buffer is
//!   taken or given back), and the listeners' choice of a worker.
//! - Requests and replies are forwarded as the bytes that arrived, once scanned. What is not canonical is rewritten.
//!   Nothing is converted between RESP2 and RESP3, but for the first byte of a message: each has its own connections.
//! - No command that reads or leaves state on its connection ever travels on a lane, and what the table does not know
//!   counts as such.
//! - A client has unanswered requests on one upstream connection at most, and moves only when it has none. Change of
//!   database or protocol is a change of lane, hence a barrier.
//! - A client that waits is answered within the request timeout: by Redis, or by us. Its requests' deadlines are in their
//!   order, so that what is answered here is always the beginning of what it waits for.
//! - A write whose outcome is unknown is never sent again, and no later request of its client runs before it: that goes
//!   behind it on the same connection, or behind the end of that connection on another. What is repeated only reads, or was
//!   never sent.
//! - What a client has queued is run by its EXEC or not at all, and never unwatched if it was to be watched. A block is only
//!   sent over a connection whose server has let us use MULTI and EXEC.
//! - A client hears a topic from the acknowledgement of its SUBSCRIBE to that of its UNSUBSCRIBE: each message once, in order,
//!   and never between the parts of a reply. The feed is read whatever its hearers do; who lags too far is disconnected. An
//!   acknowledgement that is not the next one due closes the feed.
//! - Error replies that mean "cannot serve" are not passed on, but to who has a connection for itself, and a request that is not served gets the same answer
//!   whatever the reason: what an empty Redis would say, or an error that tells whether it can have run.
//! - A surplus reply, or bytes that are no reply, close the upstream connection. It is never resynchronised.
//! - Reading and writing an upstream connection advance independently. Reading never waits for a client that has stopped
//!   reading.
//! - Every queue has a bound: requests and bytes in flight for each connection, outstanding replies and unread bytes for
//!   each client, clients, permits, and one budget of memory for all buffers.
//! - An idle session holds no buffer.
//! - Bytes from the network never panic; `unsafe` is denied but for one documented call in `main.rs`.
//!
//! # Where the code differs from the design
//!
//! - Bulk traffic, which moves a client to its lane's second connection, counts only requests and replies of 4 KiB or
//!   more: many small ones do not hold up their neighbours.
//! - An upstream connection is never stopped for a client that does not read. For one that does, but more slowly than a
//!   reply of many megabytes arrives, reading pauses a millisecond at a time: 250 ms at most for a client that takes
//!   nothing, and once more for each 16 KiB it takes. Otherwise a client that reads all the time would be cut off at the
//!   output limit because Redis is faster.
//! - When memory is short (three quarters of the budget) only requests over 1 MiB wait, and the client that holds most
//!   without getting on is disconnected: if everybody stopped being read, one client could stall all.
//! - The rotation of lanes over a pool that is smaller than their number has a quantum of 10 ms.
//! - A reply is only accepted for a request that was sent entirely, and one that was read while nothing was due ends the
//!   connection. A surplus reply that is still on its way when the next request is sent cannot be told from its reply.
//! - Option words are read as the server reads them, up to a NUL.
//! - The supervisor's pauses do not double from 50 ms: two dials in any second are allowed, so they are spread over that
//!   second from the first on. The numbers come from `benches/herd`.
//! - The sign of life that is asked for when a connection is silent is a PING on the least busy other connection of every
//!   worker, and one more dial where a lane has no other connection. That dial is carried on in the background when nobody waits for it
//!   any more: its late reply is what tells that a frozen Redis is back.
//! - A fence is not waited for. It goes ahead of the next request on the same connection, and Redis runs them in order.
//! - A client's unanswered requests are repeated all together or not at all; the design would repeat a suffix.
//! - A connection that misses a deadline and goes on answering stays in service, and its clients stay with it: it is slow, and
//!   another would be no better. The design would take it out of service.
//! - The name's addresses are asked for by whoever dials (`upstream/resolve.rs`), five seconds after the last answer at the
//!   soonest, also after a loss.
//! - Where the upstream user may not MULTI, that is said at EXEC and not at MULTI: a client that has sent the whole
//!   transaction already, and one that waits for each reply, both know then that it is over.
//! - A new connection is given 8 requests, and one more for each reply, until its rate is known.
//! - Subscribers of both protocols share one connection of their worker. The design has one for each protocol, since nothing
//!   is converted otherwise; but a message is the same in both but for its first byte, each comes once instead of twice, and a
//!   subscriber may change its protocol.
//! - Requests over 1 MiB are held whole and sent over a lease then, not while they arrive: an upload that stops half-way would
//!   leave a connection half-written.
//! - The control connection is made for one request and closed: a busy server lets nobody PING, so it could not be kept
//!   ready. It is one more than `--pool-size`, all of whose connections may be stuck.
//! - A lease on which its client has set nothing is given back as it is, without RESET and a new handshake: it is at rest, and
//!   what was sent over it is known. One on which something was set is closed, but for a database, protocol or name that EXEC
//!   has set: its reply says so, and the lease is then one of another lane.
//! - The client that CLIENT TRACKING is redirected to has to have subscribed to `__redis__:invalidate` before, which gives it a
//!   lease: the server tells a connection, not a client.
//! - While a client that leaves blocks, our side of its lease is shut down rather than closed: Redis then ends it exactly as it
//!   would have ended the client, and a reply that was under way still comes.
//!
//! - Reading stops before `--max-sigterm-delay`, by the time that a request may take, and not at it: the process is to be gone
//!   then, with everything answered that was read.
//! - A new password for clients replaces the old one at once; only towards Redis the one before is tried too.
//!
//! # Words
//!
//! *Client*: who connects to us. *Session*: our side of it. *Upstream*: the Redis behind us. *Connection*: one upstream
//! socket. *Lane*: the shared connections that agree on database and protocol. *Request*, *reply*: Redis' words.
//! *Block*: MULTI to EXEC. *Preface*: the replies of a block that come before EXEC's.
//! *Lease*: an upstream connection that one client has for itself; *slot*: the right to one. *Hold*: a client's side of it.
//! *In flight*: sent, and not yet answered. *Tombstone*: the in-flight entry of a client that left. *Permit*: the right to
//! one upstream connection. *Starved*: a lane that waits for a connection somebody gives up. *Withdrawn*: a connection
//! that takes no more requests because somebody waits for it. *Muted*: a reply the client asked not to see.
//! *Link*: whether there is a connection, as the supervisor knows. *Trip*: the breaker opens. *Probe*: a dial to see whether
//! Redis is back. *Trial*: a request let through while the breaker is half-open. *Sidelined*: a connection that takes no
//! request until it has shown that it works. *Stuck*: silent, while the server answers elsewhere. *Parked*: a request that
//! waits for another connection. *Fence*: a CLIENT KILL ahead of the next request. *Degraded*: answered as an empty Redis
//! would, or by an error. *Feed*: the subscription connection of a worker. *Topic*: a channel, a pattern or a shard channel.
//! *Last call*: from then on nothing more is read.
//! *Hearer*: who gets a topic's messages. *Verdict*: what became of a request about topics.
//! *Drill*: an outage on purpose, of one process. *Obstacle*: why Redis is known not to answer.

pub mod admin;
pub mod app;
mod buffer;
pub mod check;
pub mod client;
pub mod command;
pub mod config;
pub mod explain;
pub mod http;
pub mod inject;
pub mod lifecycle;
pub mod observe;
pub mod resp;
pub mod secret;
mod transport;
pub mod upstream;
pub mod version;
pub mod webhook;
mod worker;
