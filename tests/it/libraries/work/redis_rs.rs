//! redis-rs at work that needs more than a shared connection, in both protocols.

use super::{compare_work, until, within_limit};
use crate::libraries::corpus::Transcript;
use crate::libraries::runtime;
use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection, transaction_async};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, Commands, ControlFlow, Direction, FromRedisValue, InfoDict, Pipeline,
    PubSubCommands, PushInfo, PushKind, RedisResult, Script, Value, cmd, pipe,
};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};

/// The URL's query that asks for each protocol; RESP2 is the default.
const PROTOCOLS: [&str; 2] = ["", "?protocol=resp3"];
const RESP3: &str = PROTOCOLS[1];

#[test]
fn redis_rs() {
    compare_work("redis-rs at work", |url| {
        let mut seen = Transcript::default();
        for protocol in PROTOCOLS {
            let place = Place::new(url, protocol);
            runtime().block_on(every_scenario(&place, &mut seen));
            place.scenario("synchronous", &mut seen);
            synchronous(&place, &mut seen);
        }
        seen
    });
}

async fn every_scenario(place: &Place, seen: &mut Transcript) {
    macro_rules! run {
        ($($scenario:ident)*) => {
            $(
                place.scenario(stringify!($scenario), seen);
                within_limit(stringify!($scenario), $scenario(place, seen)).await;
            )*
        };
    }
    run!(transactions large_transactions consistency watching optimistic_counter scripts);
    run!(channels chat_room blocking consumers gone_while_waiting by_id streams databases monitor shared_manager);
    if place.protocol == RESP3 {
        run!(pushes resubscription tracking);
    }
}

/// Where the scenarios work: connections to a server, in a protocol.
struct Place {
    client: Client,
    url: String,
    protocol: &'static str,
}

impl Place {
    fn new(url: &str, protocol: &'static str) -> Self {
        let client = Client::open(format!("{url}/{protocol}")).expect("the URL is right");
        Self { client, url: url.to_owned(), protocol }
    }

    fn scenario(&self, name: &str, seen: &mut Transcript) {
        seen.record("scenario", &format!("{name}{}", self.protocol));
    }

    /// A name for a key or channel, which differs between protocols.
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.protocol.trim_start_matches("?protocol="))
    }

    /// A connection that waits for as long as it takes.
    async fn connect(&self) -> MultiplexedConnection {
        self.connect_with(patient()).await
    }

    async fn connect_with(&self, config: AsyncConnectionConfig) -> MultiplexedConnection {
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        connecting.await.expect("the handshake succeeds")
    }

    /// A connection whose pushes arrive at the receiver.
    async fn connect_with_pushes(&self) -> (MultiplexedConnection, UnboundedReceiver<PushInfo>) {
        let (sender, receiver) = unbounded_channel();
        (self.connect_with(patient().set_push_sender(sender)).await, receiver)
    }

    /// Waits until the server says that so many clients are blocked.
    async fn blocked_clients(&self, connection: &mut MultiplexedConnection, count: u64) {
        until("that many are blocked", async || {
            let info: InfoDict = cmd("INFO").arg("clients").query_async(connection).await.expect("INFO is answered");
            info.get("blocked_clients") == Some(count)
        })
        .await;
    }
}

fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None)
}

fn note(seen: &mut Transcript, label: &str, reply: &RedisResult<impl Debug>) {
    match reply {
        Ok(value) => seen.record(label, &format!("{value:?}")),
        Err(error) => seen.record(label, &format!("error {error}")),
    }
}

/// Starts a call on a connection of its own.
fn meanwhile<T: FromRedisValue + Send + 'static>(
    mut connection: MultiplexedConnection,
    words: &[&str],
) -> JoinHandle<RedisResult<T>> {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    tokio::spawn(async move { command.query_async(&mut connection).await })
}

async fn transactions(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let [text, list, number] = ["t:text", "t:list", "t:number"].map(|name| place.key(name));
    let mut block = pipe();
    block.atomic().set(&text, "v").rpush(&list, &["a", "b"]).lrange(&list, 0, -1).incr(&number, 1).get(&text);
    let replies: RedisResult<Vec<Value>> = block.query_async(&mut connection).await;
    note(seen, "exec", &replies);
    let replies: RedisResult<(i64, String)> =
        pipe().atomic().set(&text, "w").ignore().incr(&number, 1).get(&text).query_async(&mut connection).await;
    note(seen, "typed, some ignored", &replies);
    let replies: RedisResult<Vec<Value>> =
        pipe().atomic().set(&text, "x").incr(&text, 1).query_async(&mut connection).await;
    note(seen, "an error inside", &replies);
    let mut wrong = pipe();
    wrong.atomic().set(&text, "lost").add_command(cmd("GET")).add_command(cmd("NONSENSE"));
    let replies: RedisResult<Vec<Value>> = wrong.query_async(&mut connection).await;
    note(seen, "a wrong one", &replies);
    let left: RedisResult<String> = connection.get(&text).await;
    note(seen, "nothing of it was done", &left);
    let mut steps = Vec::new();
    for words in [vec!["MULTI"], vec!["SET", &text, "in steps"], vec!["GET", &text], vec!["EXEC"], vec!["EXEC"]] {
        let mut command = cmd(words[0]);
        let step: RedisResult<Value> = command.arg(&words[1..]).query_async(&mut connection).await;
        steps.push(format!("{step:?}"));
    }
    seen.record("step by step", &format!("{steps:?}"));
    for words in [vec!["MULTI"], vec!["SET", &text, "lost"], vec!["DISCARD"], vec!["GET", &text]] {
        let step: RedisResult<Value> = cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await;
        note(seen, "taken back", &step);
    }
}

async fn large_transactions(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let mut block = pipe();
    block.atomic();
    for at in 0..1_500 {
        block.rpush(place.key("large:list"), at);
    }
    let lengths: Vec<i64> = block.query_async(&mut connection).await.expect("many commands are done");
    assert_eq!(lengths, (1..=1_500).collect::<Vec<_>>(), "each has its reply");
    let big = "0123456789".repeat(40_000);
    let mut block = pipe();
    block.atomic();
    for at in 0..5 {
        let key = place.key(&format!("large:{at}"));
        block.set(&key, format!("{at}{big}")).ignore().strlen(&key).get(&key);
    }
    let replies: Vec<String> = block.query_async(&mut connection).await.expect("large values are stored");
    seen.record("lengths", &format!("{:?}", replies.iter().map(String::len).collect::<Vec<_>>()));
    assert!(replies.iter().skip(1).step_by(2).enumerate().all(|(at, value)| *value == format!("{at}{big}")));
}

/// Money is moved by tasks that share a connection; whoever looks in one transaction sees all of it.
async fn consistency(place: &Place, seen: &mut Transcript) {
    let [rich, poor] = ["rich", "poor"].map(|name| place.key(name));
    let shared = place.connect().await;
    let _: () = shared.clone().mset(&[(&rich, 10_000), (&poor, 0)]).await.expect("it is stored");
    let mut tasks = JoinSet::new();
    for task in 1..=8 {
        let (mut connection, rich, poor) = (shared.clone(), rich.clone(), poor.clone());
        tasks.spawn(async move {
            for _ in 0..20 {
                let mut block = pipe();
                block.atomic().decr(&rich, task).incr(&poor, task);
                block.exec_async(&mut connection).await.expect("the block is done");
            }
            BTreeSet::new()
        });
    }
    let mut observer = place.connect().await;
    let (looked_at_rich, looked_at_poor) = (rich.clone(), poor.clone());
    tasks.spawn(async move {
        let mut sums = BTreeSet::new();
        for _ in 0..40 {
            let looked: RedisResult<(i64, i64)> =
                pipe().atomic().get(&looked_at_rich).get(&looked_at_poor).query_async(&mut observer).await;
            let (left, right) = looked.expect("both are numbers");
            sums.insert(left + right);
        }
        sums
    });
    let sums: BTreeSet<_> = tasks.join_all().await.into_iter().flatten().collect();
    seen.record("sums seen", &format!("{sums:?}"));
    let end: RedisResult<Vec<i64>> = shared.clone().mget(&[rich, poor]).await;
    note(seen, "in the end", &end);
}

async fn watching(place: &Place, seen: &mut Transcript) {
    let (mut connection, mut other) = (place.connect().await, place.connect().await);
    let [watched, missing] = ["watched", "missing"].map(|name| place.key(name));
    let block = |key: &str| {
        let mut block = pipe();
        block.atomic().set(key, "by the block").ignore().get(key);
        block
    };
    let watch = |key: &str| cmd("WATCH").arg(key).to_owned();
    note(seen, "watch", &watch(&watched).query_async::<String>(&mut connection).await);
    let done: RedisResult<Option<(String,)>> = block(&watched).query_async(&mut connection).await;
    note(seen, "undisturbed", &done);
    watch(&watched).exec_async(&mut connection).await.expect("it is watched");
    let _: () = other.set(&watched, "changed").await.expect("it is stored");
    let done: RedisResult<Option<(String,)>> = block(&watched).query_async(&mut connection).await;
    note(seen, "disturbed", &done);
    watch(&watched).exec_async(&mut connection).await.expect("it is watched");
    note(seen, "unwatch", &cmd("UNWATCH").query_async::<String>(&mut connection).await);
    let _: () = other.set(&watched, "changed again").await.expect("it is stored");
    let done: RedisResult<Option<(String,)>> = block(&watched).query_async(&mut connection).await;
    note(seen, "after unwatch", &done);
    watch(&missing).exec_async(&mut connection).await.expect("it is watched");
    let _: () = other.rpush(&missing, "appeared").await.expect("it is stored");
    let done: RedisResult<Option<(i64,)>> = pipe().atomic().llen(&missing).query_async(&mut connection).await;
    note(seen, "it appeared", &done);
}

/// A counter that tasks raise by the library's helper, which watches it.
async fn optimistic_counter(place: &Place, seen: &mut Transcript) {
    let counter = place.key("counter");
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let (connection, counter) = (place.connect().await, counter.clone());
        tasks.spawn(async move {
            for _ in 0..8 {
                let raise = async |mut connection: MultiplexedConnection, mut block: Pipeline| {
                    let value: Option<i64> = connection.get(&counter).await?;
                    block.set(&counter, value.unwrap_or_default() + 1).get(&counter);
                    block.query_async::<Option<(String, i64)>>(&mut connection).await
                };
                transaction_async(connection.clone(), &[&counter], raise).await.expect("it is raised");
            }
        });
    }
    tasks.join_all().await;
    let value: RedisResult<i64> = place.connect().await.get(&counter).await;
    note(seen, "counted", &value);
}

async fn scripts(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let [from, to] = ["from", "to"].map(|name| place.key(name));
    let _: i64 = connection.rpush(&from, &["a", "b", "c"]).await.expect("it is stored");
    let script =
        Script::new("local v = redis.call('LPOP', KEYS[1]) redis.call('RPUSH', KEYS[2], v .. ARGV[1]) return v");
    for _ in 0..2 {
        let moved: RedisResult<String> = script.key(&from).key(&to).arg("!").invoke_async(&mut connection).await;
        note(seen, "script", &moved);
        cmd("SCRIPT").arg("FLUSH").exec_async(&mut connection).await.expect("all scripts are forgotten");
    }
    let load: RedisResult<String> = script.prepare_invoke().load_async(&mut connection).await;
    note(seen, "loaded", &load);
    let mut block = pipe();
    block.atomic().invoke_script(script.key(&from).key(&to).arg("?")).lrange(&to, 0, -1);
    let replies: RedisResult<(String, Vec<String>)> = block.query_async(&mut connection).await;
    note(seen, "in a transaction", &replies);
    let wrong: RedisResult<Value> =
        Script::new("return redis.error_reply('CUSTOM wrong')").invoke_async(&mut connection).await;
    note(seen, "an error of its own", &wrong);
}

/// The library's own subscriber, which takes a connection for itself.
async fn channels(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let [one, two, pattern] = ["one", "two", "t*"].map(|name| place.key(name));
    let mut subscriber = place.client.get_async_pubsub().await.expect("the handshake succeeds");
    subscriber.subscribe(&[&one, &two]).await.expect("it is subscribed");
    subscriber.psubscribe(&pattern).await.expect("it is subscribed");
    let pong: RedisResult<Value> = subscriber.ping().await;
    assert!(pong.is_ok(), "a subscriber may say PING: {pong:?}");
    for at in 0..20 {
        let channel = if at % 2 == 0 { &one } else { &two };
        let _: i64 = connection.publish(channel, format!("message {at}")).await.expect("it is published");
    }
    let nobody: RedisResult<i64> = connection.publish(place.key("nobody"), "lost").await;
    note(seen, "nobody heard it", &nobody);
    let mut heard: Vec<_> = (&mut subscriber.on_message()).take(20 + 10).map(|message| told(&message)).collect().await;
    // A message that two subscriptions match comes twice, and which comes first is the server's choice.
    heard.sort_by_key(|(pattern, ..)| pattern.clone());
    seen.record("heard", &format!("{heard:?}"));
    subscriber.unsubscribe(&[&one, &two]).await.expect("it is unsubscribed");
    subscriber.punsubscribe(&pattern).await.expect("it is unsubscribed");
    let known: RedisResult<Vec<String>> =
        cmd("PUBSUB").arg("CHANNELS").arg(format!("{one}*")).query_async(&mut connection).await;
    note(seen, "known", &known);
}

fn told(message: &redis::Msg) -> (Option<String>, String, String) {
    let pattern = message.get_pattern().expect("a pattern is text");
    (pattern, message.get_channel_name().to_owned(), message.get_payload().expect("a message is text"))
}

/// Each of several subscribers hears each of several publishers in order.
async fn chat_room(place: &Place, seen: &mut Transcript) {
    let room = place.key("room");
    let mut listening = Vec::new();
    for _ in 0..3 {
        let mut subscriber = place.client.get_async_pubsub().await.expect("the handshake succeeds");
        subscriber.subscribe(&room).await.expect("it is subscribed");
        let heard = subscriber.into_on_message().take(4 * 50).map(|message| told(&message).2);
        listening.push(tokio::spawn(heard.collect::<Vec<_>>()));
    }
    let mut talking = JoinSet::new();
    for name in 0..4 {
        let (mut connection, room) = (place.connect().await, room.clone());
        talking.spawn(async move {
            for at in 0..50 {
                let _: i64 = connection.publish(&room, format!("{name} {at}")).await.expect("it is published");
            }
        });
    }
    talking.join_all().await;
    for heard in listening {
        let heard = heard.await.expect("the subscriber ends well");
        let by_name = [0, 1, 2, 3].map(|name| {
            heard.iter().filter(|text| text.starts_with(&format!("{name} "))).cloned().collect::<Vec<_>>().join(",")
        });
        seen.record("heard", &format!("{by_name:?}"));
    }
}

async fn blocking(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let waiting = place.connect().await;
    let [list, other, scores, stream] = ["b:list", "b:other", "b:scores", "b:stream"].map(|name| place.key(name));
    place.blocked_clients(&mut connection, 0).await;
    let _: i64 = connection.rpush(&list, "ready").await.expect("it is stored");
    note(seen, "nothing to wait for", &connection.blpop::<_, Option<[String; 2]>>(&list, 1.0).await);
    note(seen, "too late", &connection.blpop::<_, Option<[String; 2]>>(&list, 0.02).await);
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
        let waited = meanwhile::<Value>(waiting.clone(), words);
        place.blocked_clients(&mut connection, 1).await;
        cmd(serve[0]).arg(&serve[1..]).exec_async(&mut connection).await.expect("it is stored");
        note(seen, words[0], &waited.await.expect("no task fails"));
    }
    note(seen, "of a wrong kind", &connection.blpop::<_, Value>(&stream, 1.0).await);
    let block: RedisResult<(Value, Value)> = pipe()
        .atomic()
        .blpop("none", 0.0)
        .blmove("none", "none", Direction::Left, Direction::Left, 0.0)
        .query_async(&mut connection)
        .await;
    note(seen, "does not wait in a transaction", &block);
}

/// Several consumers of one list: each element goes to one of them.
async fn consumers(place: &Place, seen: &mut Transcript) {
    let [jobs, done] = ["jobs", "done"].map(|name| place.key(name));
    let mut working = JoinSet::new();
    for _ in 0..6 {
        let (mut connection, jobs, done) = (place.connect().await, jobs.clone(), done.clone());
        working.spawn(async move {
            let mut got = Vec::new();
            loop {
                let [_, job]: [String; 2] = connection.brpop(&jobs, 0.0).await.expect("a job comes");
                let Ok(number) = job.parse::<u32>() else { return got };
                got.push(number);
                pipe().atomic().incr(&done, 1).exec_async(&mut connection).await.expect("it is counted");
            }
        });
    }
    let mut producer = place.connect().await;
    for job in 0..200 {
        let _: i64 = producer.lpush(&jobs, job).await.expect("it is stored");
    }
    let _: i64 = producer.lpush(&jobs, &["stop"; 6]).await.expect("it is stored");
    let mut all: Vec<_> = working.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    seen.record("done, each once", &format!("{all:?}"));
    note(seen, "counted", &producer.get::<_, i64>(&done).await);
}

/// A consumer whose connection goes while it waits takes nothing with it.
async fn gone_while_waiting(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    for round in 0..4 {
        let list = place.key(&format!("gone:{round}"));
        place.blocked_clients(&mut connection, 0).await;
        let waiting = meanwhile::<Value>(place.connect().await, &["BLPOP", &list, "0"]);
        place.blocked_clients(&mut connection, 1).await;
        waiting.abort();
        place.blocked_clients(&mut connection, 0).await;
        let _: i64 = connection.rpush(&list, "kept").await.expect("it is stored");
        note(seen, "nothing is lost", &connection.lrange::<_, Vec<String>>(&list, 0, -1).await);
    }
}

/// A client that waits is let go by another.
async fn by_id(place: &Place, seen: &mut Transcript) {
    let (mut connection, mut waiting) = (place.connect().await, place.connect().await);
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut waiting).await.expect("an id");
    place.blocked_clients(&mut connection, 0).await;
    for reason in ["TIMEOUT", "ERROR"] {
        let waited = meanwhile::<Value>(waiting.clone(), &["BLPOP", &place.key("by-id"), "0"]);
        place.blocked_clients(&mut connection, 1).await;
        let freed: RedisResult<i64> =
            cmd("CLIENT").arg("UNBLOCK").arg(id).arg(reason).query_async(&mut connection).await;
        note(seen, "unblocked", &freed);
        note(seen, "it got", &waited.await.expect("no task fails"));
    }
    note(seen, "wait", &cmd("WAIT").arg(0).arg(10).query_async::<i64>(&mut connection).await);
}

async fn streams(place: &Place, seen: &mut Transcript) {
    let stream = place.key("stream");
    let mut producer = place.connect().await;
    let _: () = producer.xgroup_create_mkstream(&stream, "group", "$").await.expect("the group is made");
    let mut working = JoinSet::new();
    for name in 0..3 {
        let (mut connection, stream) = (place.connect().await, stream.clone());
        working.spawn(async move {
            let options = StreamReadOptions::default().group("group", format!("consumer {name}")).count(1).block(0);
            let mut got = Vec::new();
            loop {
                let read: StreamReadReply =
                    connection.xread_options(&[&stream], &[">"], &options).await.expect("an entry comes");
                for entry in &read.keys[0].ids {
                    let _: i64 = connection.xack(&stream, "group", &[&entry.id]).await.expect("it is acknowledged");
                    let Some(number) = entry.get::<u32>("f") else { return got };
                    got.push(number);
                }
            }
        });
    }
    for at in 0..60 {
        let _: String = producer.xadd(&stream, "*", &[("f", at)]).await.expect("it is stored");
    }
    for _ in 0..3 {
        let _: String = producer.xadd(&stream, "*", &[("stop", "")]).await.expect("it is stored");
    }
    let mut all: Vec<_> = working.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    seen.record("done, each once", &format!("{all:?}"));
    note(seen, "pending", &producer.xpending::<_, _, Value>(&stream, "group").await);
}

async fn databases(place: &Place, seen: &mut Transcript) {
    let mut zero = place.connect().await;
    let three = Place::new(&format!("{}/3", place.url), place.protocol);
    let mut other = three.connect().await;
    let key = place.key("in-a-database");
    let block: RedisResult<(String, String)> =
        pipe().atomic().set(&key, "three").get(&key).query_async(&mut other).await;
    note(seen, "in database 3", &block);
    note(seen, "not in 0", &zero.get::<_, Option<String>>(&key).await);
    cmd("WATCH").arg(&key).exec_async(&mut other).await.expect("it is watched");
    let _: () = zero.set(&key, "zero").await.expect("it is stored");
    note(seen, "another key in 0", &pipe().atomic().get(&key).query_async::<Option<(String,)>>(&mut other).await);
    let mut inside = pipe();
    inside.atomic().cmd("SELECT").arg(3).get(&key).cmd("SELECT").arg(0).get(&key);
    note(seen, "select inside", &inside.query_async::<Vec<Value>>(&mut zero).await);
}

async fn monitor(place: &Place, seen: &mut Transcript) {
    let mut connection = place.connect().await;
    let [text, end] = ["m:text", "m:end"].map(|name| place.key(name));
    let lines = place.client.get_async_monitor().await.expect("MONITOR is answered").into_on_message::<String>();
    let mut lines = Box::pin(lines);
    let block: RedisResult<(String, i64)> =
        pipe().atomic().set(&text, "1").incr(&text, 1).query_async(&mut connection).await;
    assert!(block.is_ok(), "the block is done: {block:?}");
    let _: i64 = connection.del(&end).await.expect("it is deleted");
    let mut shown = Vec::new();
    while !shown.last().is_some_and(|words: &String| words.contains(&end)) {
        let line = lines.next().await.expect("another line comes");
        let (_, words) = line.split_once("] ").expect("a line names its client");
        if words.contains(&text) || words.contains(&end) {
            shown.push(words.to_owned());
        }
    }
    seen.record("seen", &format!("{shown:?}"));
}

/// Tasks that share what dials again by itself, at ordinary commands and transactions.
async fn shared_manager(place: &Place, seen: &mut Transcript) {
    let manager = ConnectionManager::new(place.client.clone()).await.expect("the handshake succeeds");
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let (mut manager, key) = (manager.clone(), place.key(&format!("managed:{task}")));
        tasks.spawn(async move {
            for round in 0..15 {
                let block: RedisResult<(i64, String)> =
                    pipe().atomic().set(&key, round).ignore().incr(&key, 1).get(&key).query_async(&mut manager).await;
                assert_eq!(block.expect("the block is done"), (round + 1, (round + 1).to_string()));
                let value: i64 = manager.get(&key).await.expect("a value is there");
                assert_eq!(value, round + 1, "the reply is another request's");
            }
        });
    }
    seen.record("tasks", &format!("{}", tasks.join_all().await.len()));
}

/// In RESP3 one connection subscribes, is told, and goes on with other commands.
async fn pushes(place: &Place, seen: &mut Transcript) {
    let (mut connection, mut told) = place.connect_with_pushes().await;
    let mut publisher = place.connect().await;
    let [channel, pattern] = ["pushed", "push*"].map(|name| place.key(name));
    connection.subscribe(&channel).await.expect("it is subscribed");
    connection.psubscribe(&pattern).await.expect("it is subscribed");
    for at in 0..10 {
        let _: i64 = publisher.publish(&channel, at).await.expect("it is published");
        let block: (String, i64) = pipe()
            .atomic()
            .set(place.key("beside"), at)
            .incr(place.key("beside"), 1)
            .query_async(&mut connection)
            .await
            .expect("the block is done");
        assert_eq!(block, ("OK".to_owned(), at + 1), "commands go on beside the subscription");
    }
    connection.unsubscribe(&channel).await.expect("it is unsubscribed");
    connection.punsubscribe(&pattern).await.expect("it is unsubscribed");
    let mut all = Vec::new();
    while all.iter().filter(|kind| matches!(kind, (PushKind::PUnsubscribe, _))).count() == 0 {
        let push = told.recv().await.expect("another push comes");
        all.push((push.kind, push.data));
    }
    for wanted in [PushKind::Subscribe, PushKind::PSubscribe, PushKind::Message, PushKind::PMessage] {
        let of_a_kind: Vec<_> = all.iter().filter(|(kind, _)| *kind == wanted).map(|(_, data)| data).collect();
        seen.record(&format!("{wanted}"), &format!("{of_a_kind:?}"));
    }
    seen.record("in all", &format!("{}", all.len()));
}

/// A manager whose connection is ended subscribes again.
async fn resubscription(place: &Place, seen: &mut Transcript) {
    let (sender, mut told) = unbounded_channel();
    let config = ConnectionManagerConfig::new()
        .set_push_sender(sender)
        .set_automatic_resubscription()
        .set_min_delay(Duration::from_millis(1));
    let mut manager =
        ConnectionManager::new_with_config(place.client.clone(), config).await.expect("the handshake succeeds");
    let mut connection = place.connect().await;
    let channel = place.key("resubscribed");
    manager.subscribe(&channel).await.expect("it is subscribed");
    let id: i64 = cmd("CLIENT").arg("ID").query_async(&mut manager).await.expect("an id");
    note(seen, "killed", &cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async::<i64>(&mut connection).await);
    until("it is subscribed again", async || {
        connection.publish::<_, _, i64>(&channel, "welcome back").await.is_ok_and(|heard| heard > 0)
    })
    .await;
    let heard = async {
        loop {
            let push = told.recv().await.expect("another push comes");
            if push.kind == PushKind::Message {
                return push.data;
            }
        }
    };
    seen.record("heard", &format!("{:?}", heard.await));
}

/// The server tells which of the keys that were read have changed.
async fn tracking(place: &Place, seen: &mut Transcript) {
    let (mut connection, mut told) = place.connect_with_pushes().await;
    let mut other = place.connect().await;
    let [read, unread] = ["tracked", "untracked"].map(|name| place.key(name));
    note(seen, "on", &cmd("CLIENT").arg("TRACKING").arg("ON").query_async::<Value>(&mut connection).await);
    for value in ["first", "second"] {
        note(seen, "read", &connection.get::<_, Option<String>>(&read).await);
        let _: () = other.set(&unread, value).await.expect("it is stored");
        let _: () = other.set(&read, value).await.expect("it is stored");
        let push = told.recv().await.expect("a push comes");
        seen.record("told", &format!("{} {:?}", push.kind, push.data));
    }
    note(seen, "off", &cmd("CLIENT").arg("TRACKING").arg("OFF").query_async::<Value>(&mut connection).await);
    note(seen, "read", &connection.get::<_, String>(&read).await);
    let _: () = other.set(&read, "unnoticed").await.expect("it is stored");
    note(seen, "read", &connection.get::<_, String>(&read).await);
    seen.record("nothing more is told", &format!("{}", told.try_recv().is_err()));
}

/// The connection that blocks its thread: transactions by the helper, and a subscriber with a closure.
fn synchronous(place: &Place, seen: &mut Transcript) {
    let mut connection = place.client.get_connection().expect("the handshake succeeds");
    let counter = place.key("synchronous:counter");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = place.client.get_connection().expect("the handshake succeeds");
                for _ in 0..8 {
                    let raised = redis::transaction(&mut connection, &[&counter], |connection, block| {
                        let value: Option<i64> = connection.get(&counter)?;
                        block.set(&counter, value.unwrap_or_default() + 1).query::<Option<(String,)>>(connection)
                    });
                    raised.expect("it is raised");
                }
            });
        }
    });
    note(seen, "counted", &connection.get::<_, i64>(&counter));
    let channel = place.key("synchronous:channel");
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            let mut connection = place.client.get_connection().expect("the handshake succeeds");
            let mut heard = Vec::new();
            let ended: RedisResult<()> = connection.subscribe(&[&channel], |message| {
                heard.push(told(&message).2);
                if heard.len() == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue }
            });
            ended.expect("the subscription ends well");
            (heard, connection.get::<_, i64>(&counter))
        });
        while !listening.is_finished() {
            connection.publish::<_, _, i64>(&channel, "message").expect("it is published");
        }
        note(seen, "heard", &Ok(listening.join().expect("the thread ends well")));
    });
    note(seen, "blpop", &connection.blpop::<_, Option<[String; 2]>>(place.key("none"), 0.02));
}
