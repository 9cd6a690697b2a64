//! A client's open transaction: what it has queued since MULTI.
//!
//! MULTI and all that follows is answered here, in every state of the upstream, in the words that the server at hand would
//! use; only EXEC needs a connection, and gets the whole block in one piece. A command is judged as the server would judge
//! it while queueing: by its name and the number of its arguments. What only the server can judge (its memory, the user's
//! rights, whether it is a replica) is said at EXEC.
//!
//! What cannot share a connection, or what the server knows better than the table, is not decided here:
//! [`Verdict::NeedsLease`]. [`Block::replay`] is what a connection of the client's own would have to be sent before it.

use super::refusal;
use crate::command::route::{Cause, Local, Manner, Route, Transaction};
use crate::command::table::{self, Command, Origin};
use crate::resp::request::Args;
use crate::upstream::Release;

/// Most commands of a block that shares a connection.
const MAX_COMMANDS: u32 = 1000;

/// Most bytes of them.
const MAX_BYTES: usize = 1024 * 1024;

/// Room for a short transaction, so that it is not made in many steps, in bytes.
const FIRST_ROOM: usize = 256;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

/// MULTI, and a command that every server refuses.
const SPOILED: &[u8] = b"*1\r\n$5\r\nMULTI\r\n*1\r\n$3\r\nGET\r\n";

const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// What MULTI opened. Pure: it holds bytes and counts.
#[derive(Debug)]
pub(super) struct Block {
    /// MULTI and the commands, as they are to be sent; nothing once the block is dirty.
    bytes: Vec<u8>,
    commands: u32,
    manner: Manner,
    dirty: bool,
}

/// What becomes of a command that is to be queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client is told so.
    Queued,
    /// The client gets this error line.
    Refused(Vec<u8>),
    /// It cannot share a connection, or the block cannot because of its size: the block is as it was.
    NeedsLease,
}

/// What a server says of a command.
enum Judgement {
    /// It queues it.
    Fits(Manner),
    /// It refuses it, and EXEC too.
    Spoils(Vec<u8>),
    /// It refuses it, and forgets that.
    Rejected(Vec<u8>),
    /// It has to be asked, and is known to be a command or not.
    NeedsLease { known: bool },
}

impl Block {
    /// An empty one.
    pub(super) fn open() -> Self {
        let mut bytes = Vec::with_capacity(FIRST_ROOM);
        bytes.extend_from_slice(MULTI);
        Self { bytes, commands: 0, manner: Manner::default(), dirty: false }
    }

    /// One whose connection is lost: its client goes on, and nothing of it will run.
    pub(super) fn lost() -> Self {
        Self { bytes: Vec::new(), commands: 0, manner: Manner::default(), dirty: true }
    }

    /// Takes a command, a whole canonical request, that `release` is to run; EXEC, DISCARD, RESET and QUIT end the block and
    /// do not come here.
    pub(super) fn queue(&mut self, route: Route, request: &[u8], release: Option<Release>) -> Verdict {
        match judge(route, &Args::new(request), release) {
            Judgement::Rejected(error) => Verdict::Refused(error),
            Judgement::Spoils(error) => {
                self.spoil();
                Verdict::Refused(error)
            }
            // Nothing of it will run, so no connection is needed for it.
            Judgement::Fits(_) if self.dirty => Verdict::Queued,
            Judgement::NeedsLease { known: true } if self.dirty => Verdict::Queued,
            Judgement::NeedsLease { .. } => Verdict::NeedsLease,
            Judgement::Fits(manner) => {
                if self.commands >= MAX_COMMANDS || self.bytes.len() + request.len() > MAX_BYTES {
                    return Verdict::NeedsLease;
                }
                self.bytes.extend_from_slice(request);
                self.commands += 1;
                self.manner.slow |= manner.slow;
                self.manner.meets_subscribers |= manner.meets_subscribers;
                Verdict::Queued
            }
        }
    }

    /// A command was refused: EXEC will be, and what was queued is forgotten.
    pub(super) fn spoil(&mut self) {
        self.dirty = true;
        self.bytes = Vec::new();
    }

    /// A command was refused.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What matters of it on its way: whether one of the commands may honestly take long, or meets subscribers.
    pub(super) fn manner(&self) -> Manner {
        self.manner
    }

    /// What a connection of the client's own has to be sent first: MULTI and the commands so far. If nothing of the block may
    /// run, because it is dirty or because nobody watches what was to be watched, something that makes EXEC fail there too.
    pub(super) fn replay(&self, unwatched: bool) -> &[u8] {
        if self.dirty || unwatched { SPOILED } else { &self.bytes }
    }

    /// Bytes of memory that it takes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// How many replies come before EXEC's: to MULTI, and to each command.
    pub(super) fn preface(&self) -> u32 {
        1 + self.commands
    }

    /// Ends it: everything from MULTI to EXEC.
    pub(super) fn close(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(EXEC);
        self.bytes
    }
}

/// What a server of that release would say while queueing; before the first contact, one that knows all commands.
fn judge(route: Route, args: &Args<'_>, release: Option<Release>) -> Judgement {
    let command = match command_of(args.clone()) {
        Ok(command) => command,
        Err(Unknown) => return Judgement::NeedsLease { known: false },
    };
    let Release { is_valkey, version } = release.unwrap_or(Release { is_valkey: false, version: (u32::MAX, 0) });
    if release.is_some() && command.origin.may_be_missing(is_valkey, version) {
        return Judgement::NeedsLease { known: false };
    }
    // Modules count for themselves, and so did all subcommands before Redis 7, when they run.
    let counts_later = is_of_module(command) || command.subcommand().is_some() && version < (7, 0);
    if !counts_later && !command.accepts(args.len()) {
        return Judgement::Spoils(refusal::wrong_arity(command.name));
    }
    match route {
        // Queued before Redis 7 only.
        Route::Shared(_) if command.name == "save" => Judgement::NeedsLease { known: true },
        Route::Shared(manner) => Judgement::Fits(manner),
        // Inside a block nothing blocks.
        Route::Leased(Cause::Blocking | Cause::Replication)
        | Route::Local(Local::Ping | Local::Echo)
        | Route::Transaction(Transaction::Unwatch) => Judgement::Fits(Manner::default()),
        Route::Transaction(Transaction::Multi | Transaction::Watch) if is_valkey => {
            Judgement::Spoils(refusal::not_allowed_inside(command.name, version))
        }
        Route::Transaction(Transaction::Multi) => Judgement::Rejected(refusal::NESTED_MULTI.into()),
        Route::Transaction(Transaction::Watch) => Judgement::Rejected(refusal::WATCH_INSIDE.into()),
        Route::Local(_)
        | Route::Subscription(_)
        | Route::Transaction(Transaction::Exec | Transaction::Discard)
        | Route::Leased(
            Cause::Administration | Cause::ClientState | Cause::Monitor | Cause::Unknown | Cause::UnknownSubcommand,
        )
        | Route::Control
        | Route::Refused => Judgement::NeedsLease { known: true },
    }
}

/// The server may know the command; the table does not.
struct Unknown;

/// The command of a request, of a container its subcommand. A container alone, and one of a module, stands for itself.
fn command_of(mut args: Args<'_>) -> Result<&'static Command, Unknown> {
    let command = args.next().and_then(table::find).ok_or(Unknown)?;
    match args.next() {
        Some(name) if command.is_container() && !is_of_module(command) => table::find_sub(command, name).ok_or(Unknown),
        _ => Ok(command),
    }
}

fn is_of_module(command: &Command) -> bool {
    matches!(command.origin, Origin::Module { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::route::route;
    use crate::resp::inline;

    const OLD: Option<Release> = Some(Release { is_valkey: false, version: (6, 2) });
    const REDIS: Option<Release> = Some(Release { is_valkey: false, version: (7, 0) });
    const VALKEY: Option<Release> = Some(Release { is_valkey: true, version: (9, 1) });

    fn request(text: &str) -> Vec<u8> {
        let mut request = Vec::new();
        inline::encode(text.split(' '), &mut request);
        request
    }

    fn queue(block: &mut Block, text: &str, release: Option<Release>) -> Verdict {
        let request = request(text);
        let args = || Args::new(&request);
        block.queue(route(table::find(args().next().unwrap()), args), &request, release)
    }

    fn refused(error: &str) -> Verdict {
        Verdict::Refused(error.into())
    }

    #[test]
    fn what_is_queued_is_sent_in_one_piece() {
        let mut block = Block::open();
        for text in ["SET k v", "BLPOP k 0", "XREAD BLOCK 0 STREAMS s $", "PING", "UNWATCH", "COMMAND", "JSON.GET k"] {
            assert_eq!(queue(&mut block, text, REDIS), Verdict::Queued, "{text}");
        }
        assert!(!block.manner().slow && !block.is_dirty());
        assert_eq!(block.preface(), 8);
        assert!(block.bytes.starts_with(&[request("MULTI"), request("SET k v")].concat()));
        assert_eq!(queue(&mut block, "EVAL x 0", None), Verdict::Queued);
        assert!(block.manner().slow);
        assert!(block.close().ends_with(&[request("EVAL x 0"), request("EXEC")].concat()));
    }

    #[test]
    fn a_wrong_number_of_arguments_spoils_the_block() {
        for (text, name) in [("GET", "get"), ("SELECT", "select"), ("WATCH", "watch"), ("DISCARD x", "discard")] {
            for release in [None, OLD, REDIS, VALKEY] {
                let mut block = Block::open();
                let error = format!("ERR wrong number of arguments for '{name}' command");
                assert_eq!(queue(&mut block, text, release), refused(&error));
                assert!(block.is_dirty() && block.bytes.is_empty());
                assert_eq!(queue(&mut block, "SET k v", release), Verdict::Queued);
                assert_eq!(queue(&mut block, "SELECT 3", release), Verdict::Queued, "no lease for what never runs");
                assert!(block.bytes.is_empty(), "nothing is kept for a block that will not run");
            }
        }
    }

    #[test]
    fn subcommands_are_counted_since_redis_7() {
        let error = "ERR wrong number of arguments for 'object|encoding' command";
        for release in [None, REDIS, VALKEY] {
            assert_eq!(queue(&mut Block::open(), "OBJECT ENCODING", release), refused(error));
        }
        assert_eq!(queue(&mut Block::open(), "OBJECT ENCODING", OLD), Verdict::Queued);
        let error = "ERR wrong number of arguments for 'object' command";
        assert_eq!(queue(&mut Block::open(), "OBJECT", OLD), refused(error));
    }

    #[test]
    fn valkey_aborts_what_redis_forgives() {
        for (text, redis, valkey) in [
            ("MULTI", refusal::NESTED_MULTI, "ERR Command 'multi' not allowed inside a transaction"),
            ("WATCH k", refusal::WATCH_INSIDE, "ERR Command 'watch' not allowed inside a transaction"),
        ] {
            let (mut first, mut second) = (Block::open(), Block::open());
            assert_eq!(queue(&mut first, text, REDIS), refused(redis));
            assert!(!first.is_dirty());
            assert_eq!(queue(&mut second, text, VALKEY), refused(valkey));
            assert!(second.is_dirty());
        }
        let earlier = Some(Release { is_valkey: true, version: (8, 1) });
        let error = "ERR Command not allowed inside a transaction";
        assert_eq!(queue(&mut Block::open(), "MULTI", earlier), refused(error));
    }

    #[test]
    fn what_only_the_server_can_judge_needs_a_connection_of_ones_own() {
        for (text, release) in [
            ("SELECT 1", None),
            ("CLIENT ID", REDIS),
            ("SUBSCRIBE c", REDIS),
            ("MONITOR", REDIS),
            ("SAVE", REDIS),
            ("SHUTDOWN", REDIS),
            ("NOSUCH x", REDIS),
            ("EXPIRETIME k", OLD),
            ("COMMANDLOG LEN SLOW", REDIS),
            ("HEXPIRE k 1 FIELDS 1 f", VALKEY),
            ("OBJECT NOSUCH", REDIS),
            ("CLIENT NO-EVICT ON", OLD),
        ] {
            let mut block = Block::open();
            assert_eq!(queue(&mut block, text, release), Verdict::NeedsLease, "{text}");
            assert_eq!(block.bytes, request("MULTI"), "{text}: the block is as it was");
        }
    }

    #[test]
    fn a_block_has_a_limit() {
        let mut block = Block::open();
        for _ in 0..MAX_COMMANDS {
            assert_eq!(queue(&mut block, "GET k", REDIS), Verdict::Queued);
        }
        assert_eq!(queue(&mut block, "GET k", REDIS), Verdict::NeedsLease);
        let mut block = Block::open();
        let large = format!("SET k {}", "v".repeat(MAX_BYTES / 2));
        assert_eq!(queue(&mut block, &large, REDIS), Verdict::Queued);
        assert_eq!(queue(&mut block, &large, REDIS), Verdict::NeedsLease);
        assert_eq!(queue(&mut block, "GET k", REDIS), Verdict::Queued);
        assert!(block.close().len() < MAX_BYTES);
    }
}
