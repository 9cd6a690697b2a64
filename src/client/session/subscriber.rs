//! A client that subscribes: its requests about subscriptions, and the messages it hears.
//!
//! Such a request takes effect when the server has answered it, so it waits for nothing to be outstanding before it, and
//! what follows waits for it. Only other subscriptions and PINGs may follow at once, since they are settled in their order.
//! In RESP2 a client with subscriptions may ask for little else.
//!
//! Messages are neither replies nor in their order, but never come between the parts of one.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;

use super::{Departure, Phase, Session, Step, Turn};
use crate::buffer::{ByteQueue, CHUNK};
use crate::client::clients::Env;
use crate::client::refusal;
use crate::client::subscriptions::{self, Subscriptions};
use crate::command::route::{Local, Manner, Route, Subscription};
use crate::observe::cells::{Outcome, Tag};
use crate::resp::build;
use crate::resp::request::Args;
use crate::upstream::{Error, Name, Protocol, Reserve, Sort, Topics, Upstream, Verdict};

/// What a client has that subscribes.
#[derive(Default)]
pub(super) struct Subscriber {
    topics: Subscriptions,
    /// Requests that are not settled, oldest first.
    pending: VecDeque<Pending>,
    /// Messages that wait until a reply is complete.
    held: ByteQueue,
    /// Bytes of topics that are counted in the budget of memory.
    counted: usize,
}

struct Pending {
    ask: Ask,
    /// An error in reply to it is not to be shown, nor is a pong; acknowledgements are shown always.
    muted: bool,
    /// To count it by, when it is settled.
    tag: Tag,
}

enum Ask {
    Subscribe(Sort, Vec<Name>),
    /// As asked: a name may be there twice, or not be subscribed to.
    Unsubscribe(Sort, Vec<Name>),
    Ping(Option<Box<[u8]>>),
    /// To leave all topics of a sort, without acknowledgements.
    Leave(Sort),
}

impl Session {
    /// Deals with what a client that subscribes may not ask like anybody else; none of the other requests.
    pub(super) fn as_subscriber(&mut self, route: Route, frame: &[u8], turn: &mut Turn<'_, '_>) -> Option<Step> {
        let subscriber = self.subscriber.as_ref()?;
        let (empty, settled) = (subscriber.topics.is_empty(), subscriber.pending.is_empty());
        let restricted = !empty && self.state.protocol == Protocol::Resp2;
        let count = Args::new(frame).len();
        match route {
            Route::Subscription(_) => None,
            Route::Local(Local::Ping) if count <= 2 && self.block.is_none() && !self.is_queueing() => {
                Some(self.ping(frame, turn))
            }
            _ if !settled => Some(self.wait_for_verdict(turn)),
            // PING has too many arguments here, which the server is to say.
            Route::Local(Local::Ping | Local::Quit) => None,
            Route::Local(Local::Reset) if count == 1 => (!empty).then(|| self.leave_all(frame, turn)),
            Route::Local(Local::Hello) if !restricted && self.replies.outstanding() > 0 => {
                // What is due is in one protocol, and messages would come in the other.
                Some(self.wait_for_replies(frame, turn))
            }
            _ if restricted => {
                let identity = turn.upstream.shared().identity();
                Some(self.answer_with(turn.env, |out| {
                    refusal::while_subscribed(&Args::new(frame), identity, out);
                }))
            }
            _ => None,
        }
    }

    /// A command about subscriptions.
    pub(super) fn subscription(&mut self, command: Subscription, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        let (sort, subscribes) = subscriptions::meaning(command);
        let args = Args::new(frame);
        if subscribes && args.len() > 1 {
            return self.subscribe(sort, frame, turn);
        }
        if self.awaits_verdict() {
            return self.wait_for_verdict(turn);
        }
        let identity = turn.upstream.shared().identity();
        if subscribes {
            // The words are the server's.
            self.forward(frame, Manner::default(), turn)
        } else if sort == Sort::Shard && identity.is_before(7, 0) {
            self.answer_with(turn.env, |out| refusal::unknown(&args, identity, out))
        } else {
            self.unsubscribe(sort, args, frame, turn)
        }
    }

    fn subscribe(&mut self, sort: Sort, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.outstanding() > 0 {
            return self.wait_for_replies(frame, turn);
        }
        match turn.upstream.reserve_feed(self.key, true, turn.cx.waker()) {
            Reserve::Ready(_) => {
                let names = turn.upstream.subscribe(self.key, sort, frame, self.since);
                self.ask(Ask::Subscribe(sort, names));
                Step::Done
            }
            _ if self.awaits_verdict() => self.wait_for_verdict(turn),
            Reserve::Wait | Reserve::Elsewhere(_) if self.may_wait(turn) => Step::Blocked,
            Reserve::Wait | Reserve::Elsewhere(_) => self.unavailable(frame, &Error::Overdue, turn),
            Reserve::Unavailable(error) => self.unavailable(frame, &error, turn),
        }
    }

    fn unsubscribe(&mut self, sort: Sort, args: Args<'_>, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        let mut asked: Vec<Name> = Vec::new();
        let mut leaves: Vec<Name> = Vec::new();
        let topics = self.subscriber.as_ref().map(|subscriber| &subscriber.topics);
        if args.len() == 1 {
            leaves = topics.map(|topics| topics.all(sort)).unwrap_or_default();
            asked.clone_from(&leaves);
        }
        for name in args.skip(1) {
            let known = topics.and_then(|topics| topics.find(sort, name));
            leaves.extend(known.cloned());
            asked.push(known.map_or_else(|| Name::from(name), Name::clone));
        }
        leaves.sort_unstable();
        leaves.dedup();
        self.leave(sort, leaves, Ask::Unsubscribe(sort, asked), frame, turn)
    }

    /// Ends subscriptions, of which each is named once; `ask` says what the client is told then.
    fn leave(&mut self, sort: Sort, names: Vec<Name>, ask: Ask, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.outstanding() > 0 {
            return self.wait_for_replies(frame, turn);
        }
        if names.is_empty() {
            // Nothing changes, whatever it is told.
            self.ask(ask);
            return self.settle_at_once(turn.env);
        }
        match turn.upstream.reserve_feed(self.key, false, turn.cx.waker()) {
            Reserve::Ready(_) => {
                turn.upstream.unsubscribe(self.key, sort, names, self.since);
                self.ask(ask);
                Step::Done
            }
            Reserve::Wait | Reserve::Elsewhere(_) => self.wait_for_verdict(turn),
            Reserve::Unavailable(_) => {
                turn.upstream.forget(self.key, vec![(sort, names)]);
                self.ask(ask);
                self.settle_at_once(turn.env)
            }
        }
    }

    /// RESET: nothing is heard any more, then it goes on as if nothing had ever been.
    fn leave_all(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.outstanding() > 0 {
            return self.wait_for_replies(frame, turn);
        }
        for sort in Sort::ALL {
            let names = self.subscriber.as_ref().map(|subscriber| subscriber.topics.all(sort)).unwrap_or_default();
            if !names.is_empty() {
                self.leave(sort, names, Ask::Leave(sort), frame, turn);
            }
        }
        // What could not be asked yet is asked when the rest is settled.
        self.wait_for_verdict(turn)
    }

    /// PING of a client that subscribes: the pong comes behind the messages that were published before.
    fn ping(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        if self.replies.outstanding() > 0 {
            return self.wait_for_replies(frame, turn);
        }
        let ask = Ask::Ping(Args::new(frame).nth(1).map(Box::from));
        match turn.upstream.reserve_feed(self.key, false, turn.cx.waker()) {
            Reserve::Ready(_) => {
                turn.upstream.ping_feed(self.key, self.since);
                self.ask(ask);
                Step::Done
            }
            Reserve::Wait | Reserve::Elsewhere(_) => self.wait_for_verdict(turn),
            Reserve::Unavailable(_) => {
                self.ask(ask);
                self.settle_at_once(turn.env)
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let muted = if matches!(ask, Ask::Leave(_)) { false } else { self.state.mutes_next() };
        // Who leaves does so for a request that goes on.
        let tag = if matches!(ask, Ask::Leave(_)) { Tag::NONE } else { mem::take(&mut self.tag) };
        self.subscriber.get_or_insert_default().pending.push_back(Pending { ask, muted, tag });
    }

    fn settle_at_once(&mut self, env: &mut Env) -> Step {
        self.settled(Verdict::Assumed, &[], env);
        Step::Done
    }

    /// True while a request about subscriptions is not settled.
    pub(super) fn awaits_verdict(&self) -> bool {
        self.subscriber.as_ref().is_some_and(|subscriber| !subscriber.pending.is_empty())
    }

    /// The time that passes counts; but what is pending is answered first, within its own.
    pub(super) fn wait_for_verdict(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        self.may_wait(turn);
        Step::Blocked
    }

    /// A change of route is a barrier.
    fn wait_for_replies(&mut self, frame: &[u8], turn: &mut Turn<'_, '_>) -> Step {
        self.wake_at = Some(0);
        if self.may_wait(turn) { Step::Blocked } else { self.unavailable(frame, &Error::Overdue, turn) }
    }

    /// The oldest request about subscriptions has its verdict. `buffer` holds what was delivered in this batch.
    pub(in crate::client) fn settled(&mut self, verdict: Verdict<'_>, buffer: &[u8], env: &mut Env) {
        let resp3 = self.state.protocol == Protocol::Resp3;
        let oldest = self.subscriber.as_mut().and_then(|subscriber| subscriber.pending.pop_front());
        let Some(Pending { ask, muted, tag }) = oldest else { return };
        self.count_verdict(tag, &verdict, env);
        let Some(subscriber) = &mut self.subscriber else { return };
        let mut out = mem::take(&mut env.answer);
        out.clear();
        let failed = match verdict {
            Verdict::Done | Verdict::Assumed => None,
            Verdict::Refused(line) => Some(line.to_vec()),
            Verdict::Failed(failure) => Some(failure.text().into_bytes()),
        };
        match (failed, ask) {
            (None, Ask::Subscribe(sort, names)) => subscriber.topics.add(sort, names, resp3, &mut out),
            (None, Ask::Unsubscribe(sort, names)) => subscriber.topics.remove(sort, &names, resp3, &mut out),
            (None, Ask::Leave(sort)) => {
                let names = subscriber.topics.all(sort);
                subscriber.topics.remove(sort, &names, resp3, &mut out);
                out.clear();
            }
            _ if muted => {}
            (None, Ask::Ping(text)) if !resp3 && !subscriber.topics.is_empty() => {
                subscriptions::pong(&text.unwrap_or_default(), &mut out);
            }
            (None, Ask::Ping(None)) => build::simple("PONG", &mut out),
            (None, Ask::Ping(Some(text))) => build::bulk(&text, &mut out),
            (Some(line), _) => build::error(line, &mut out),
        }
        self.spill(buffer, env);
        self.answer_local(&out, env);
        env.answer = out;
        env.answer.shrink_to(CHUNK);
        self.count_topics(env);
        if !self.awaits_verdict() {
            // At rest nothing is kept.
            self.subscriber.iter_mut().for_each(|subscriber| subscriber.pending = VecDeque::new());
            self.wake();
        }
    }

    fn count_verdict(&mut self, tag: Tag, verdict: &Verdict<'_>, env: &Env) {
        if tag == Tag::NONE {
            return;
        }
        self.tag = tag;
        match verdict {
            Verdict::Done => self.count(Outcome::Ok, env),
            Verdict::Assumed => self.count(Outcome::Local, env),
            Verdict::Refused(line) => {
                env.cells.note_error(line);
                self.count(Outcome::ErrorReply, env);
            }
            Verdict::Failed(failure) => self.gave(failure.given(), true, env),
        }
    }

    /// Keeps the budget true, and gives up what a client needs only while it subscribes.
    fn count_topics(&mut self, env: &mut Env) {
        let Some(subscriber) = &mut self.subscriber else { return };
        let bytes = subscriber.topics.bytes();
        let before = mem::replace(&mut subscriber.counted, bytes);
        env.pool.resized(before, bytes);
        env.census.note_hearing(self.state.id, !subscriber.topics.is_empty());
        if bytes > CHUNK {
            self.be_watched(env);
        } else if bytes == 0 && subscriber.pending.is_empty() && subscriber.held.is_empty() {
            self.subscriber = None;
        }
    }

    /// Takes messages, which stay in the connection's buffer until [`Session::flush`].
    pub(in crate::client) fn hear(&mut self, buffer: &[u8], messages: Range<usize>, env: &mut Env) {
        if self.phase != Phase::Serving {
            return;
        }
        if self.half_delivered {
            let Some(subscriber) = &mut self.subscriber else { return };
            subscriber.held.push(buffer.get(messages).unwrap_or_default(), &mut env.pool);
            return self.limit_backlog(env);
        }
        self.append(false, buffer, messages, env);
    }

    /// A reply is complete: messages that waited for it follow.
    pub(super) fn release_held(&mut self, buffer: &[u8], env: &mut Env) {
        let holds = |subscriber: &Subscriber| !subscriber.held.is_empty();
        if !self.half_delivered && self.subscriber.as_deref().is_some_and(holds) {
            self.spill(buffer, env);
            self.subscriber.iter_mut().for_each(|subscriber| self.out.append(&mut subscriber.held));
            self.count_topics(env);
        }
    }

    /// It cannot hear on. What is due to it comes first, and what it has not heard is not passed over in silence.
    pub(in crate::client) fn cut(&mut self, buffer: &[u8], env: &mut Env) {
        self.spill(buffer, env);
        if self.phase == Phase::Serving {
            self.note_departure(Departure::UpstreamLost);
            self.phase = Phase::Finishing { linger: true };
        }
        self.wake();
    }

    /// A message for it is longer than all that it may leave unread.
    pub(in crate::client) fn overrun(&mut self) {
        tracing::warn!(client = self.state.id, "disconnecting a client: a message longer than --client-output-limit");
        self.kill(Departure::OutputLimit);
    }

    /// Hears nothing any more, because it is gone.
    pub(in crate::client) fn leave_feed(&self, upstream: &mut Upstream) {
        if let Some(subscriber) = &self.subscriber {
            upstream.forget(self.key, subscriber.everything());
        }
    }

    /// What it hears.
    pub(in crate::client) fn topics(&self) -> Topics {
        self.subscriber.as_ref().map(|subscriber| subscriber.everything()).unwrap_or_default()
    }

    /// Gives back what a client needs only while it subscribes.
    pub(super) fn drop_subscriber(&mut self, env: &mut Env) {
        if let Some(mut subscriber) = self.subscriber.take() {
            // As for others whose client is gone, what becomes of them is not known here.
            subscriber.pending.iter().for_each(|pending| env.cells.settled(pending.tag, Outcome::Ok, env.clock));
            subscriber.held.clear(&mut env.pool);
            env.pool.resized(subscriber.counted, 0);
        }
    }

    /// How many channels, patterns and shard channels it hears.
    pub(super) fn subscribed_to(&self) -> [usize; 3] {
        self.subscriber.as_ref().map(|subscriber| subscriber.topics.counts()).unwrap_or_default()
    }

    /// True if its messages are to come as pushes.
    pub(in crate::client) fn hears_pushes(&self) -> bool {
        self.state.protocol == Protocol::Resp3
    }
}

impl Subscriber {
    fn everything(&self) -> Topics {
        Sort::ALL.map(|sort| (sort, self.topics.all(sort))).into()
    }

    /// Bytes of messages that wait until a reply is complete.
    pub(super) fn backlog(&self) -> usize {
        self.held.len()
    }

    /// Bytes that its topics take.
    pub(super) fn holding(&self) -> usize {
        self.counted
    }
}
