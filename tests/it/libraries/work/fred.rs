//! fred at work that needs more than a shared connection, in both protocols.

use super::{compare_work, until, within_limit};
use crate::libraries::corpus::Transcript;
use crate::libraries::runtime;
use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::types::client::ClientKillFilter;
use fred::types::config::Config;
use fred::types::streams::XReadResponse;
use fred::types::{ClientUnblockFlag, ClusterHash, CustomCommand, Message, MessageKind, RespVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use tokio::sync::broadcast::Receiver;
use tokio::task::{JoinHandle, JoinSet};

/// More messages than any scenario sends: a receiver that falls behind by so many loses some.
const MESSAGES: usize = 4_096;

/// What is published to learn whether somebody is subscribed.
const PROBE: &str = "probe";

#[test]
fn fred() {
    compare_work("fred at work", |url| {
        runtime().block_on(async {
            let mut seen = Transcript::default();
            for version in [RespVersion::RESP2, RespVersion::RESP3] {
                every_scenario(&Place { url: url.to_owned(), version }, &mut seen).await;
            }
            seen
        })
    });
}

async fn every_scenario(place: &Place, seen: &mut Transcript) {
    macro_rules! run {
        ($($scenario:ident)*) => {
            $(
                seen.record("scenario", &format!("{} {:?}", stringify!($scenario), place.version));
                within_limit(stringify!($scenario), $scenario(place, seen)).await;
            )*
        };
    }
    run!(transactions large_transactions consistency watching optimistic_counter scripts);
    run!(channels chat_room sharded_channels blocking consumers gone_while_waiting by_id streams databases);
    run!(resubscription one_pool_for_all);
    if place.version == RespVersion::RESP3 {
        run!(beside_a_subscription tracking);
    }
}

/// Where the scenarios work: clients of a server, in a protocol.
struct Place {
    url: String,
    version: RespVersion,
}

impl Place {
    fn config(&self) -> Config {
        let mut config = Config::from_url(&self.url).expect("the URL is right");
        config.version = self.version.clone();
        config
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::from_config(self.config());
        builder.with_performance_config(|config| config.broadcast_channel_capacity = MESSAGES);
        // A connection that is lost is made again, at once.
        builder.set_policy(ReconnectPolicy::new_constant(0, 1));
        builder
    }

    async fn connect(&self) -> Client {
        let client = self.builder().build().expect("the configuration is right");
        client.init().await.expect("the handshake succeeds");
        client
    }

    async fn subscriber(&self) -> SubscriberClient {
        let client = self.builder().build_subscriber_client().expect("the configuration is right");
        client.init().await.expect("the handshake succeeds");
        client
    }

    /// A name for a key or channel, which differs between protocols.
    fn key(&self, name: &str) -> String {
        format!("{:?}:{name}", self.version)
    }

    fn keys<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        names.map(|name| self.key(name))
    }
}

fn note(seen: &mut Transcript, label: &str, reply: FredResult<impl Debug>) {
    match reply {
        Ok(value) => seen.record(label, &format!("{value:?}")),
        Err(error) => seen.record(label, &format!("error {error}")),
    }
}

/// Sends any command.
async fn send<R: FromValue>(client: &Client, words: &[&str]) -> FredResult<R> {
    let arguments: Vec<String> = words[1..].iter().map(ToString::to_string).collect();
    client.custom(CustomCommand::new(words[0], ClusterHash::FirstKey, false), arguments).await
}

/// The same in a task of its own.
fn meanwhile(client: &Client, words: &[&str]) -> JoinHandle<FredResult<Value>> {
    let (client, words) = (client.clone(), words.iter().map(ToString::to_string).collect::<Vec<_>>());
    tokio::spawn(async move {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        send(&client, &words).await
    })
}

/// Waits until the server says that so many clients are blocked.
async fn blocked_clients(client: &Client, count: u64) {
    let wanted = format!("blocked_clients:{count}\r");
    until("that many are blocked", async || {
        send::<String>(client, &["INFO", "clients"]).await.expect("INFO is answered").contains(&wanted)
    })
    .await;
}

async fn set(client: &Client, key: &str, value: impl Into<Value> + Send) {
    let _: () = client.set(key, value.into(), None, None, false).await.expect("it is stored");
}

async fn transactions(place: &Place, seen: &mut Transcript) {
    let client = place.connect().await;
    let [text, list, number] = place.keys(["t:text", "t:list", "t:number"]);
    let block = client.multi();
    let queued: Value = block.set(&text, "v", None, None, false).await.expect("it is queued");
    assert!(queued.is_queued(), "nothing is sent before EXEC");
    let _: () = block.rpush(&list, vec!["a", "b"]).await.expect("it is queued");
    let _: () = block.lrange(&list, 0, -1).await.expect("it is queued");
    let _: () = block.incr(&number).await.expect("it is queued");
    let _: () = block.get(&text).await.expect("it is queued");
    note(seen, "exec", block.exec::<Value>(true).await);
    for abort in [true, false] {
        let block = client.multi();
        let _: () = block.set(&text, "w", None, None, false).await.expect("it is queued");
        let _: () = block.incr(&text).await.expect("it is queued");
        let _: () = block.get(&text).await.expect("it is queued");
        note(seen, "an error inside", block.exec::<Value>(abort).await);
        let block = client.multi();
        let _: () = block.set(&text, "lost", None, None, false).await.expect("it is queued");
        let wrong = CustomCommand::new_static("GET", ClusterHash::FirstKey, false);
        let _: () = block.custom(wrong, Vec::<String>::new()).await.expect("it is queued");
        note(seen, "a wrong one", block.exec::<Value>(abort).await);
        note(seen, "after it", client.get::<String, _>(&text).await);
    }
    for words in [vec!["MULTI"], vec!["SET", &text, "in steps"], vec!["EXEC"], vec!["EXEC"], vec!["DISCARD"]] {
        note(seen, "step by step", send::<Value>(&client, &words).await);
    }
}

async fn large_transactions(place: &Place, seen: &mut Transcript) {
    let client = place.connect().await;
    let block = client.multi();
    for at in 0..1_500 {
        let _: () = block.rpush(place.key("large:list"), at).await.expect("it is queued");
    }
    let lengths: Vec<i64> = block.exec(true).await.expect("many commands are done");
    assert_eq!(lengths, (1..=1_500).collect::<Vec<_>>(), "each has its reply");
    let block = client.multi();
    let big = "0123456789".repeat(40_000);
    for at in 0..5 {
        let key = place.key(&format!("large:{at}"));
        let _: () = block.set(&key, format!("{at}{big}"), None, None, false).await.expect("it is queued");
        let _: () = block.getrange(&key, 0, 400_000).await.expect("it is queued");
    }
    let replies: Vec<String> = block.exec(true).await.expect("large values are stored");
    seen.record("lengths", &format!("{:?}", replies.iter().map(String::len).collect::<Vec<_>>()));
}

/// Money is moved by tasks; whoever looks in one transaction sees all of it.
async fn consistency(place: &Place, seen: &mut Transcript) {
    let [rich, poor] = place.keys(["rich", "poor"]);
    let client = place.connect().await;
    set(&client, &rich, 10_000).await;
    set(&client, &poor, 0).await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (client, rich, poor) = (client.clone(), rich.clone(), poor.clone());
        tasks.spawn(async move {
            let mut sums = BTreeSet::new();
            for _ in 0..20 {
                let block = client.multi();
                if task == 0 {
                    let _: () = block.get(&rich).await.expect("it is queued");
                    let _: () = block.get(&poor).await.expect("it is queued");
                } else {
                    let _: () = block.decr_by(&rich, task).await.expect("it is queued");
                    let _: () = block.incr_by(&poor, task).await.expect("it is queued");
                }
                let (left, right): (i64, i64) = block.exec(true).await.expect("the block is done");
                sums.extend((task == 0).then_some(left + right));
            }
            sums
        });
    }
    let sums: BTreeSet<_> = tasks.join_all().await.into_iter().flatten().collect();
    seen.record("sums seen", &format!("{sums:?}"));
    note(seen, "in the end", client.mget::<Vec<i64>, _>(vec![rich, poor]).await);
}

async fn watching(place: &Place, seen: &mut Transcript) {
    let (client, other) = (place.connect().await, place.connect().await);
    let [watched, missing] = place.keys(["watched", "missing"]);
    let block = async || {
        let block = client.multi();
        let _: () = block.set(&watched, "by the block", None, None, false).await?;
        block.exec::<Value>(true).await
    };
    note(seen, "watch", client.watch(vec![watched.clone(), missing.clone()]).await);
    note(seen, "undisturbed", block().await);
    client.watch(&watched).await.expect("it is watched");
    set(&other, &watched, "changed").await;
    note(seen, "disturbed", block().await);
    note(seen, "once only", block().await);
    client.watch(&watched).await.expect("it is watched");
    note(seen, "unwatch", client.unwatch().await);
    set(&other, &watched, "changed again").await;
    note(seen, "after unwatch", block().await);
    client.watch(&missing).await.expect("it is watched");
    let _: i64 = other.rpush(&missing, "appeared").await.expect("it is stored");
    note(seen, "it appeared", block().await);
}

/// A counter that clients raise by reading it, watching it, and writing it.
async fn optimistic_counter(place: &Place, seen: &mut Transcript) {
    let counter = place.key("counter");
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let (client, counter) = (place.connect().await, counter.clone());
        tasks.spawn(async move {
            let mut raised = 0;
            while raised < 8 {
                client.watch(&counter).await.expect("it is watched");
                let value: Option<i64> = client.get(&counter).await.expect("it is read");
                let block = client.multi();
                let next = value.unwrap_or_default() + 1;
                let _: () = block.set(&counter, next, None, None, false).await.expect("it is queued");
                let done: Value = block.exec(true).await.expect("the block is done, or not");
                raised += i32::from(!done.is_null());
            }
        });
    }
    tasks.join_all().await;
    note(seen, "counted", place.connect().await.get::<i64, _>(&counter).await);
}

async fn scripts(place: &Place, seen: &mut Transcript) {
    let client = place.connect().await;
    let keys = place.keys(["from", "to"]).to_vec();
    let _: i64 = client.rpush(&keys[0], vec!["a", "b", "c", "d"]).await.expect("it is stored");
    let code = "local v = redis.call('LPOP', KEYS[1]) redis.call('RPUSH', KEYS[2], v .. ARGV[1]) return v";
    note(seen, "eval", client.eval::<String, _, _, _>(code, keys.clone(), vec!["!"]).await);
    let hash: String = client.script_load(code).await.expect("it is loaded");
    seen.record("loaded", &hash);
    note(seen, "evalsha", client.evalsha::<String, _, _, _>(&hash, keys.clone(), vec!["?"]).await);
    for _ in 0..2 {
        let block = client.multi();
        let script = CustomCommand::new_static("EVALSHA", ClusterHash::FirstKey, false);
        let words = vec![hash.clone(), "2".to_owned(), keys[0].clone(), keys[1].clone(), ".".to_owned()];
        let _: () = block.custom(script, words).await.expect("it is queued");
        let _: () = block.lrange(&keys[1], 0, -1).await.expect("it is queued");
        note(seen, "in a transaction", block.exec::<Value>(false).await);
        client.script_flush(false).await.expect("all scripts are forgotten");
    }
    let library =
        "#!lua name=work\nredis.register_function('push', function(k, a) return redis.call('RPUSH', k[1], a[1]) end)";
    note(seen, "library", client.function_load::<String, _>(true, library).await);
    note(seen, "function", client.fcall::<i64, _, _, _>("push", vec![keys[1].clone()], vec!["f"]).await);
    let wrong = "return redis.error_reply('CUSTOM wrong')";
    note(
        seen,
        "an error of its own",
        client.eval::<Value, _, _, _>(wrong, Vec::<String>::new(), Vec::<String>::new()).await,
    );
}

/// Publishes until the receiver hears it: fred says that it is subscribed when it has asked to be.
async fn until_heard(publisher: &Client, receiver: &mut Receiver<Message>, channel: &str, text: &str) {
    until("it is subscribed", async || {
        let _: i64 = publisher.publish(channel, text).await.expect("it is published");
        std::iter::from_fn(|| receiver.try_recv().ok()).any(|message| message.value.as_str().as_deref() == Some(text))
    })
    .await;
}

/// The next so many messages, as text, without those of [`until_heard`].
async fn messages(receiver: &mut Receiver<Message>, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let message = receiver.recv().await.expect("another message comes");
        if message.value.as_str().as_deref() == Some(PROBE) {
            continue;
        }
        let kind = match message.kind {
            MessageKind::Message => "message",
            MessageKind::PMessage => "pattern",
            MessageKind::SMessage => "sharded",
        };
        heard.push(format!("{kind} {} {}", message.channel, message.value.as_string().expect("it is text")));
    }
    heard
}

async fn channels(place: &Place, seen: &mut Transcript) {
    let (publisher, subscriber) = (place.connect().await, place.subscriber().await);
    let mut receiver = subscriber.message_rx();
    let [one, two, pattern] = place.keys(["one", "two", "t*"]);
    note(seen, "subscribed", subscriber.subscribe(vec![one.clone(), two.clone()]).await);
    note(seen, "to a pattern", subscriber.psubscribe(&pattern).await);
    until_heard(&publisher, &mut receiver, &place.key("t-probe"), PROBE).await;
    for at in 0..20 {
        let channel = if at % 2 == 0 { &one } else { &two };
        let _: i64 = publisher.publish(channel, format!("message {at}")).await.expect("it is published");
    }
    note(seen, "nobody heard it", publisher.publish::<i64, _, _>(place.key("nobody"), "lost").await);
    let mut heard = messages(&mut receiver, 20 + 10).await;
    // A message that two subscriptions match comes twice, and which comes first is the server's choice.
    heard.sort_by_key(|text| text.split(' ').next().map(ToOwned::to_owned));
    seen.record("heard", &format!("{heard:?}"));
    let known = [subscriber.tracked_channels(), subscriber.tracked_patterns()];
    seen.record("known to the library", &format!("{known:?}"));
    note(seen, "unsubscribed", subscriber.unsubscribe_all().await);
    until("nobody is", async || {
        publisher.pubsub_channels::<Vec<String>, _>(place.key("*")).await.is_ok_and(|known| known.is_empty())
    })
    .await;
}

/// Each of several subscribers hears each of several publishers in order.
async fn chat_room(place: &Place, seen: &mut Transcript) {
    let room = place.key("room");
    let prober = place.connect().await;
    let mut listening = Vec::new();
    for _ in 0..3 {
        let subscriber = place.subscriber().await;
        let mut receiver = subscriber.message_rx();
        subscriber.subscribe(&room).await.expect("it is subscribed");
        until_heard(&prober, &mut receiver, &room, PROBE).await;
        listening.push(tokio::spawn(async move {
            let heard = messages(&mut receiver, 4 * 50).await;
            subscriber.quit().await.expect("QUIT is answered");
            heard
        }));
    }
    let mut talking = JoinSet::new();
    for name in 0..4 {
        let (client, room) = (place.connect().await, room.clone());
        talking.spawn(async move {
            for at in 0..50 {
                let _: i64 = client.publish(&room, format!("{name}-{at}")).await.expect("it is published");
            }
        });
    }
    talking.join_all().await;
    for heard in listening {
        let heard = heard.await.expect("the subscriber ends well");
        let of =
            |name: u8| heard.iter().filter(|text| text.contains(&format!(" {name}-"))).cloned().collect::<Vec<_>>();
        seen.record("heard", &format!("{:?}", [0, 1, 2, 3].map(of)));
    }
}

async fn sharded_channels(place: &Place, seen: &mut Transcript) {
    let (publisher, subscriber) = (place.connect().await, place.subscriber().await);
    let mut receiver = subscriber.message_rx();
    let channel = place.key("{tag}");
    note(seen, "subscribed", subscriber.ssubscribe(&channel).await);
    for at in 0..10 {
        let _: i64 = publisher.spublish(&channel, at).await.expect("it is published");
    }
    seen.record("heard", &format!("{:?}", messages(&mut receiver, 10).await));
    note(seen, "known", publisher.pubsub_shardchannels::<Vec<String>, _>(place.key("*")).await);
    note(seen, "unsubscribed", subscriber.sunsubscribe(&channel).await);
}

async fn blocking(place: &Place, seen: &mut Transcript) {
    let (client, waiting) = (place.connect().await, place.connect().await);
    let [list, other, scores, stream] = place.keys(["b:list", "b:other", "b:scores", "b:stream"]);
    blocked_clients(&client, 0).await;
    let _: i64 = client.rpush(&list, "ready").await.expect("it is stored");
    note(seen, "nothing to wait for", client.blpop::<Value, _>(&list, 1.0).await);
    note(seen, "too late", client.blpop::<Value, _>(&list, 0.02).await);
    let calls: [(&[&str], &[&str]); 7] = [
        (&["BLPOP", &other, &list, "0"], &["RPUSH", &list, "a"]),
        (&["BRPOP", &list, "5"], &["RPUSH", &list, "b"]),
        (&["BLMOVE", &list, &other, "LEFT", "RIGHT", "0"], &["RPUSH", &list, "moved"]),
        (&["BLMPOP", "5", "1", &list, "LEFT", "COUNT", "2"], &["RPUSH", &list, "x", "y"]),
        (&["BZPOPMIN", &scores, "0"], &["ZADD", &scores, "1.5", "m"]),
        (&["BZMPOP", "0", "1", &scores, "MAX"], &["ZADD", &scores, "2", "n"]),
        (&["XREAD", "BLOCK", "0", "STREAMS", &stream, "$"], &["XADD", &stream, "1-1", "f", "v"]),
    ];
    for (words, serve) in calls {
        let waited = meanwhile(&waiting, words);
        blocked_clients(&client, 1).await;
        let _: Value = send(&client, serve).await.expect("it is stored");
        note(seen, words[0], waited.await.expect("no task fails"));
    }
    note(seen, "of a wrong kind", client.blpop::<Value, _>(&stream, 1.0).await);
    let block = client.multi();
    let _: () = block.blpop("none", 0.0).await.expect("it is queued");
    note(seen, "does not wait in a transaction", block.exec::<Value>(true).await);
}

/// Several consumers of one list: each element goes to one of them.
async fn consumers(place: &Place, seen: &mut Transcript) {
    let [jobs, done] = place.keys(["jobs", "done"]);
    let mut working = JoinSet::new();
    for _ in 0..6 {
        let (client, jobs, done) = (place.connect().await, jobs.clone(), done.clone());
        working.spawn(async move {
            let mut got = Vec::new();
            loop {
                let (_, job): (String, String) = client.brpop(&jobs, 0.0).await.expect("a job comes");
                let Ok(number) = job.parse::<u32>() else { return got };
                got.push(number);
                let block = client.multi();
                let _: () = block.incr(&done).await.expect("it is queued");
                let _: Value = block.exec(true).await.expect("it is counted");
            }
        });
    }
    let producer = place.connect().await;
    for job in 0..200 {
        let _: i64 = producer.lpush(&jobs, job).await.expect("it is stored");
    }
    let _: i64 = producer.lpush(&jobs, vec!["stop"; 6]).await.expect("it is stored");
    let mut all: Vec<_> = working.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    seen.record("done, each once", &format!("{all:?}"));
    note(seen, "counted", producer.get::<i64, _>(&done).await);
}

/// A consumer whose connection goes while it waits takes nothing with it.
async fn gone_while_waiting(place: &Place, seen: &mut Transcript) {
    let client = place.connect().await;
    for round in 0..4 {
        let list = place.key(&format!("gone:{round}"));
        blocked_clients(&client, 0).await;
        let waiting = place.builder().build().expect("the configuration is right");
        let connection = waiting.init().await.expect("the handshake succeeds");
        let waited = meanwhile(&waiting, &["BLPOP", &list, "0"]);
        blocked_clients(&client, 1).await;
        connection.abort();
        waited.abort();
        blocked_clients(&client, 0).await;
        let _: i64 = client.rpush(&list, "kept").await.expect("it is stored");
        note(seen, "nothing is lost", client.lrange::<Vec<String>, _>(&list, 0, -1).await);
    }
}

/// A client that waits is let go by another.
async fn by_id(place: &Place, seen: &mut Transcript) {
    let (client, waiting) = (place.connect().await, place.connect().await);
    let id: i64 = waiting.client_id().await.expect("an id");
    blocked_clients(&client, 0).await;
    for (flag, name) in [(ClientUnblockFlag::Timeout, "TIMEOUT"), (ClientUnblockFlag::Error, "ERROR")] {
        let waited = meanwhile(&waiting, &["BLPOP", &place.key("by-id"), "0"]);
        blocked_clients(&client, 1).await;
        note(seen, "unblocked", client.client_unblock::<i64, _>(id, Some(flag)).await);
        note(seen, name, waited.await.expect("no task fails"));
    }
    note(seen, "wait", send::<i64>(&client, &["WAIT", "0", "10"]).await);
}

async fn streams(place: &Place, seen: &mut Transcript) {
    let stream = place.key("stream");
    let producer = place.connect().await;
    let _: () = producer.xgroup_create(&stream, "group", "$", true).await.expect("the group is made");
    let mut working = JoinSet::new();
    for name in 0..3 {
        let (client, stream) = (place.connect().await, stream.clone());
        working.spawn(async move {
            let mut got = Vec::new();
            loop {
                let consumer = format!("consumer {name}");
                let read: XReadResponse<String, String, String, String> = client
                    .xreadgroup_map("group", consumer, Some(1), Some(0), false, &stream, ">")
                    .await
                    .expect("an entry comes");
                for (id, fields) in read.into_values().flatten() {
                    let _: i64 = client.xack(&stream, "group", id).await.expect("it is acknowledged");
                    let Ok(number) = fields["f"].parse::<u32>() else { return got };
                    got.push(number);
                }
            }
        });
    }
    let jobs = (0..60).map(|job| job.to_string()).chain(["stop"; 3].map(ToOwned::to_owned));
    for job in jobs {
        let _: String = producer.xadd(&stream, false, None, "*", ("f", job)).await.expect("it is stored");
    }
    let mut all: Vec<_> = working.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    seen.record("done, each once", &format!("{all:?}"));
    note(seen, "pending", producer.xpending::<Value, _, _, _>(&stream, "group", ()).await);
}

async fn databases(place: &Place, seen: &mut Transcript) {
    let zero = place.connect().await;
    let three = Place { url: format!("{}/3", place.url), version: place.version.clone() }.connect().await;
    let key = place.key("in-a-database");
    let block = three.multi();
    let _: () = block.set(&key, "three", None, None, false).await.expect("it is queued");
    let _: () = block.get(&key).await.expect("it is queued");
    note(seen, "in database 3", block.exec::<Value>(true).await);
    note(seen, "not in 0", zero.get::<Option<String>, _>(&key).await);
    three.watch(&key).await.expect("it is watched");
    set(&zero, &key, "zero").await;
    let block = three.multi();
    let _: () = block.get(&key).await.expect("it is queued");
    note(seen, "another key in 0", block.exec::<Value>(true).await);
    blocked_clients(&zero, 0).await;
    let list = place.key("list-in-a-database");
    let waited = meanwhile(&three, &["BLPOP", &list, "0"]);
    blocked_clients(&zero, 1).await;
    let _: i64 = zero.rpush(&list, "of another database").await.expect("it is stored");
    let other = Place { url: format!("{}/3", place.url), version: place.version.clone() }.connect().await;
    let _: i64 = other.rpush(&list, "of its own").await.expect("it is stored");
    note(seen, "it got", waited.await.expect("no task fails"));
}

/// A subscriber whose connection is ended comes back, and its subscriptions with it.
async fn resubscription(place: &Place, seen: &mut Transcript) {
    let (client, subscriber) = (place.connect().await, place.subscriber().await);
    let mut receiver = subscriber.message_rx();
    let managing = subscriber.manage_subscriptions();
    let id: i64 = subscriber.client_id().await.expect("an id");
    let channel = place.key("resubscribed");
    subscriber.subscribe(&channel).await.expect("it is subscribed");
    until_heard(&client, &mut receiver, &channel, PROBE).await;
    note(seen, "killed", client.client_kill::<i64>(vec![ClientKillFilter::ID(id.to_string())]).await);
    until_heard(&client, &mut receiver, &channel, "welcome-back").await;
    managing.abort();
}

/// Tasks that share a pool of clients, each at another kind of work.
async fn one_pool_for_all(place: &Place, seen: &mut Transcript) {
    let pool = place.builder().build_pool(5).expect("the configuration is right");
    pool.init().await.expect("the handshakes succeed");
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let (pool, key) = (pool.clone(), place.key(&format!("pooled:{task}")));
        tasks.spawn(async move {
            let mut replies = Vec::new();
            for round in 0..10 {
                if task % 2 == 0 {
                    let block = pool.next().multi();
                    let _: () = block.set(&key, round, None, None, false).await.expect("it is queued");
                    let _: () = block.incr(&key).await.expect("it is queued");
                    replies.push(format!("{:?}", block.exec::<Value>(true).await));
                } else {
                    let _: i64 = pool.rpush(&key, round).await.expect("it is stored");
                    replies.push(format!("{:?}", pool.blpop::<Value, _>(&key, 1.0).await));
                }
            }
            (task, replies)
        });
    }
    let replies: BTreeMap<_, _> = tasks.join_all().await.into_iter().collect();
    seen.record("replies", &format!("{replies:?}"));
    pool.quit().await.expect("QUIT is answered");
}

/// In RESP3 one client subscribes, is told, and goes on with other commands.
async fn beside_a_subscription(place: &Place, seen: &mut Transcript) {
    let (client, publisher) = (place.connect().await, place.connect().await);
    let mut receiver = client.message_rx();
    let [channel, number] = place.keys(["beside", "beside:number"]);
    client.subscribe(&channel).await.expect("it is subscribed");
    until_heard(&publisher, &mut receiver, &channel, PROBE).await;
    for at in 1..=20 {
        let _: i64 = publisher.publish(&channel, at).await.expect("it is published");
        let block = client.multi();
        let _: () = block.incr(&number).await.expect("it is queued");
        let (count,): (i64,) = block.exec(true).await.expect("the block is done");
        assert_eq!(count, at, "commands go on beside the subscription");
    }
    seen.record("heard", &format!("{:?}", messages(&mut receiver, 20).await));
    client.unsubscribe(&channel).await.expect("it is unsubscribed");
    note(seen, "afterwards", client.get::<i64, _>(&number).await);
}

/// The server tells which of the keys that were read have changed.
async fn tracking(place: &Place, seen: &mut Transcript) {
    let (client, other) = (place.connect().await, place.connect().await);
    let mut invalidations = client.invalidation_rx();
    let keys = place.keys(["tracked:1", "tracked:2"]);
    client.start_tracking(None, false, false, false, false).await.expect("it is tracked");
    for key in &keys {
        note(seen, "nothing yet", client.get::<Option<String>, _>(key).await);
    }
    for key in &keys {
        set(&other, key, "changed").await;
        let told = invalidations.recv().await.expect("an invalidation comes");
        seen.record("told", &format!("{:?}", told.keys));
    }
    note(seen, "read again", client.get::<String, _>(&keys[0]).await);
    client.stop_tracking().await.expect("it is tracked no more");
    set(&other, &keys[0], "unnoticed").await;
    note(seen, "read once more", client.get::<String, _>(&keys[0]).await);
    seen.record("nothing more is told", &format!("{:?}", invalidations.try_recv().is_err()));
}
