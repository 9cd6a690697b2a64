//! The control connection: for what has to reach a server that answers nothing else.
//!
//! While a script runs for too long Redis answers `-BUSY` to everything but a few commands, the shared connections are
//! stuck behind it and the breaker may be open; SCRIPT KILL, FUNCTION KILL and SHUTDOWN must arrive all the same. Each is
//! sent over a new connection that does no more than say who we are, and is closed behind it. These are made one at a time,
//! and come on top of `--pool-size`: all connections of the pool may be stuck.

use std::sync::Arc;

use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connect::{self, Attempt, LaneKey, Progress, Protocol};
use super::connection::{ClientKey, InFlight, Replies, Traits};
use super::error::{Error, Failure, Outcome, Why};
use super::shared::Shared;
use super::{Event, Upstream, breaker};
use crate::observe::cells::{self, Tag};

/// A request for the control connection.
pub(crate) struct Order<'a> {
    /// Who asks, and what it calls itself.
    pub(crate) client: ClientKey,
    pub(crate) name: u64,
    pub(crate) traits: Traits,
    pub(crate) tag: Tag,
    pub(crate) words: Vec<&'a [u8]>,
    /// The server that obeys it ends without a word.
    pub(crate) ends_server: bool,
}

/// How it went.
pub(crate) enum Report {
    /// The server's reply.
    Reply(Vec<u8>),
    /// It was not sent.
    NotSent(Error),
    /// It was sent, and no reply came.
    Lost,
}

/// Whose report it is.
pub(crate) struct Recipient {
    client: ClientKey,
    name: u64,
    traits: Traits,
    tag: Tag,
    ends_server: bool,
}

impl Upstream {
    /// Sends a request over the control connection; its reply comes like any other.
    ///
    /// # Errors
    /// The operator keeps us apart.
    pub(crate) fn control(&self, order: Order<'_>) -> Result<(), Error> {
        if self.view.state == breaker::State::Isolated {
            return Err(Error::Open);
        }
        let Order { client, name, traits, tag, words, ends_server } = order;
        let recipient = Recipient { client, name, traits, tag, ends_server };
        let words: Vec<Vec<u8>> = words.into_iter().map(<[u8]>::to_vec).collect();
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        let own_name = format!("outrigger:{}:{}:control", shared.config.host, self.worker);
        tracing::info!(command = %shown(&words), "sending a command to the server over a connection of its own");
        spawn_local(async move {
            let report = ask(&shared, &own_name, &words).await;
            // If the worker is gone, so is its client.
            drop(events.send(Event::Controlled { recipient, report }));
        });
        Ok(())
    }

    /// Hands the reply to who asked.
    pub(super) fn controlled(&mut self, recipient: &Recipient, report: Report, clients: &mut impl Replies) {
        let Recipient { client, name, traits, tag, ends_server } = *recipient;
        let entry = InFlight::elsewhere(client, traits, tag);
        let failure = match report {
            Report::Reply(reply) => {
                clients.deliver(entry, &reply, 0..reply.len(), true);
                clients.flush(&reply);
                return;
            }
            // Its client sees what it would see of the server.
            Report::Lost if ends_server => {
                // It has obeyed.
                self.cells.settled(tag, cells::Outcome::Ok, self.cells.micros(self.now));
                if let Some((client, topics)) = clients.kill(name) {
                    self.forget(client, topics);
                }
                return;
            }
            Report::Lost => Failure { outcome: Outcome::Unknown, why: Why::Lost },
            Report::NotSent(error) => Failure::not_sent(error.why()),
        };
        clients.fail(entry, &[], failure, &[]);
        clients.flush(&[]);
    }
}

/// One connection for one request.
async fn ask(shared: &Shared, name: &str, words: &[Vec<u8>]) -> Report {
    let config = &shared.config;
    let progress = Progress::default();
    let attempt = Attempt {
        target: &config.target,
        lane: LaneKey { database: 0, protocol: Protocol::Resp2 },
        name,
        identity: &shared.identity,
        resolver: &shared.resolver,
        leaves: &|| true,
        has_left: &|| (),
        limit: config.connect_timeout,
        user_timeout: config.request_timeout,
        progress: &progress,
    };
    let opened = async {
        // Closed only with the process, and then nobody asks.
        let _turn = shared.control.acquire().await.map_err(|_| Error::Overdue)?;
        connect::introduce(&attempt).await
    };
    let mut wire = match timeout(config.request_timeout, opened).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Report::NotSent(error),
        Err(_) => return Report::NotSent(Error::Overdue),
    };
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    // SHUTDOWN may save all data first.
    match timeout(config.slow_request_timeout, wire.ask_raw(&words)).await {
        Ok(Ok(reply)) => Report::Reply(reply),
        Ok(Err(_)) | Err(_) => Report::Lost,
    }
}

/// The command for the log; the rest may hold anything.
fn shown(words: &[Vec<u8>]) -> String {
    let known: Vec<_> = words.iter().take(2).map(|word| word.escape_ascii().to_string()).collect();
    known.join(" ")
}
