//! redis-rs with its defaults: the synchronous connection, the multiplexed one and the connection manager.

use super::corpus::{COMMANDS, Shape, Transcript};
use super::{compare_sides, runtime};
use crate::support::PATIENCE;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Client, Cmd, Pipeline, RedisResult, Script, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The URL's query that asks for each protocol; RESP2 is the default.
const PROTOCOLS: [&str; 2] = ["", "?protocol=resp3"];
const TASKS: usize = 50;
const ROUNDS: usize = 40;
/// Just under the largest request that a shared connection takes.
const BIG: usize = 1_000_000;

#[test]
fn redis_rs_synchronous() {
    compare_sides("redis-rs, synchronous", |url| {
        let mut seen = Transcript::default();
        for protocol in PROTOCOLS {
            let client = Client::open(format!("{url}/{protocol}")).expect("the URL is right");
            let mut connection = client.get_connection().expect("the handshake succeeds");
            redis::cmd("FLUSHALL").exec(&mut connection).expect("the database is emptied");
            let id: i64 = redis::cmd("CLIENT").arg("ID").query(&mut connection).expect("an id");
            for (shape, words) in COMMANDS {
                seen.record(words, &render(command(words).query(&mut connection), *shape));
            }
            let replies = whole_corpus().query(&mut connection);
            record_pipeline(&mut seen, replies);
            let still: i64 = redis::cmd("CLIENT").arg("ID").query(&mut connection).expect("an id");
            assert_eq!(id, still, "the connection was replaced");
        }
        seen
    });
}

#[test]
fn redis_rs_multiplexed() {
    compare_sides("redis-rs, multiplexed", |url| {
        runtime().block_on(async {
            let mut seen = Transcript::default();
            for protocol in PROTOCOLS {
                let client = Client::open(format!("{url}/{protocol}")).expect("the URL is right");
                let connection = client.get_multiplexed_async_connection().await.expect("the handshake succeeds");
                every_scenario(connection, &mut seen).await;
            }
            databases(url, &mut seen).await;
            seen
        })
    });
}

#[test]
fn redis_rs_connection_manager() {
    // Half a second, its default, is less than a machine may stand still.
    let patient = ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
    compare_sides("redis-rs, connection manager", |url| {
        runtime().block_on(async {
            let mut seen = Transcript::default();
            for protocol in PROTOCOLS {
                let client = Client::open(format!("{url}/{protocol}")).expect("the URL is right");
                let connection =
                    ConnectionManager::new_with_config(client, patient.clone()).await.expect("the handshake succeeds");
                every_scenario(connection, &mut seen).await;
            }
            seen
        })
    });
}

/// All that an asynchronous connection can do; its id shows that it stayed the same one.
async fn every_scenario<C>(mut connection: C, seen: &mut Transcript)
where
    C: ConnectionLike + AsyncCommands + Clone + Send + Sync + 'static,
{
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("the database is emptied");
    let id = client_id(&mut connection).await;
    hello(&mut connection, seen).await;
    for (shape, words) in COMMANDS {
        seen.record(words, &render(command(words).query_async(&mut connection).await, *shape));
    }
    let replies = whole_corpus().query_async(&mut connection).await;
    record_pipeline(seen, replies);
    typed(&mut connection, seen).await.expect("every typed call succeeds");
    scans(&mut connection, seen).await.expect("every scan succeeds");
    big_values(&mut connection, seen).await.expect("values of 1 MB pass");
    tasks(&connection, seen).await;
    assert_eq!(id, client_id(&mut connection).await, "the connection was replaced");
}

async fn client_id(connection: &mut impl ConnectionLike) -> i64 {
    redis::cmd("CLIENT").arg("ID").query_async(connection).await.expect("an id")
}

/// What the server says of itself, but for the connection's id.
async fn hello(connection: &mut impl ConnectionLike, seen: &mut Transcript) {
    let reply: RedisResult<BTreeMap<String, Value>> = redis::cmd("HELLO").query_async(connection).await;
    let mut fields = reply.expect("HELLO is answered");
    fields.remove("id").expect("HELLO tells an id");
    seen.record("HELLO", &format!("{fields:?}"));
}

/// Calls whose replies the library turns into types, and a script that the server has yet to learn.
async fn typed(connection: &mut impl AsyncCommands, seen: &mut Transcript) -> RedisResult<()> {
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n").collect();
    let _: () = connection.set(&binary, &binary).await?;
    let back: Vec<u8> = connection.get(&binary).await?;
    assert_eq!(back, binary, "a binary value comes back whole");
    let _: () = connection.hset_multiple("typed:h", &[("one", 1), ("two", 2)]).await?;
    let hash: BTreeMap<String, i64> = connection.hgetall("typed:h").await?;
    seen.record("hgetall", &format!("{hash:?}"));
    let _: usize = connection.zadd_multiple("typed:z", &[(1.5, "a"), (f64::INFINITY, "b")]).await?;
    let scores: Vec<(String, f64)> = connection.zrange_withscores("typed:z", 0, -1).await?;
    seen.record("zrange_withscores", &format!("{scores:?}"));
    let _: String = connection.xadd("typed:x", "1-1", &[("f", "v")]).await?;
    let streams: redis::streams::StreamReadReply = connection.xread(&["typed:x"], &["0"]).await?;
    seen.record("xread", &format!("{streams:?}"));
    let missing: Option<String> = connection.get("missing").await?;
    seen.record("get missing", &format!("{missing:?}"));
    for _ in 0..2 {
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        let sum: i64 = script.key("typed:n").arg(5).invoke_async(connection).await?;
        seen.record("script", &format!("{sum}"));
    }
    Ok(())
}

/// Iterators over collections large enough to need several rounds.
async fn scans(connection: &mut impl AsyncCommands, seen: &mut Transcript) -> RedisResult<()> {
    let mut fill = redis::pipe();
    for i in 0..1_000 {
        fill.set(format!("scan:{i}"), i).ignore();
        fill.hset("scanned:h", i, i).ignore();
        fill.sadd("scanned:t", i).ignore();
    }
    fill.exec_async(connection).await?;
    let mut keys = connection.scan_match::<_, String>("scan:*").await?;
    let mut found = BTreeSet::new();
    while let Some(key) = keys.next_item().await {
        found.insert(key?);
    }
    drop(keys);
    seen.record("scan", &format!("{found:?}"));
    let mut fields = connection.hscan::<_, (String, i64)>("scanned:h").await?;
    let mut found = BTreeMap::new();
    while let Some(field) = fields.next_item().await {
        found.extend([field?]);
    }
    drop(fields);
    seen.record("hscan", &format!("{found:?}"));
    Ok(())
}

async fn big_values(connection: &mut impl AsyncCommands, seen: &mut Transcript) -> RedisResult<()> {
    let big = vec![b'b'; BIG];
    let _: () = connection.set("big", &big).await?;
    let back: Vec<u8> = connection.get("big").await?;
    assert_eq!(back, big, "a big value comes back whole");
    let doubled: usize = connection.append("big", &big).await?;
    seen.record("append", &format!("{doubled}"));
    let several: Vec<Option<Vec<u8>>> = connection.mget(&["big", "missing", "big"]).await?;
    let lengths: Vec<_> = several.iter().map(|value| value.as_ref().map(Vec::len)).collect();
    seen.record("mget", &format!("{lengths:?}"));
    Ok(())
}

/// Fifty tasks on one connection; each knows which replies are its own.
async fn tasks<C>(connection: &C, seen: &mut Transcript)
where
    C: AsyncCommands + Clone + Send + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let mut connection = connection.clone();
        running.spawn(async move {
            for round in 0..ROUNDS {
                let (key, value) = (format!("{task}:{round}"), format!("value {task} {round}"));
                let mut pipeline = redis::pipe();
                pipeline.set(&key, &value).ignore().get(&key);
                let (back,): (String,) = pipeline.query_async(&mut connection).await.expect("a pipeline is answered");
                let again: String = connection.get(&key).await.expect("a value is there");
                assert_eq!((&back, &again), (&value, &value), "the reply is another request's");
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no task fails");
    }
    seen.record("tasks", &format!("{}", TASKS * ROUNDS));
}

/// Connections to four databases at once: none sees another's keys.
async fn databases(url: &str, seen: &mut Transcript) {
    for database in [0, 1, 3, 15] {
        let client = Client::open(format!("{url}/{database}")).expect("the URL is right");
        let mut connection = client.get_multiplexed_async_connection().await.expect("the handshake succeeds");
        let _: () = connection.set(format!("only:{database}"), database).await.expect("it is stored");
        let reply = redis::cmd("KEYS").arg("only:*").query_async(&mut connection).await;
        seen.record("keys of a database", &render(reply, Shape::Unordered));
    }
}

fn command(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command has a name"));
    command.arg(words.collect::<Vec<_>>());
    command
}

fn whole_corpus() -> Pipeline {
    let mut pipeline = redis::pipe();
    for (_, words) in COMMANDS {
        pipeline.add_command(command(words));
    }
    pipeline.ignore_errors();
    pipeline
}

fn record_pipeline(seen: &mut Transcript, replies: RedisResult<Vec<RedisResult<Value>>>) {
    let replies = replies.expect("a pipeline is answered");
    assert_eq!(replies.len(), COMMANDS.len(), "each request has one reply");
    for ((shape, words), reply) in COMMANDS.iter().zip(replies) {
        seen.record(words, &render(reply, *shape));
    }
}

fn render(reply: RedisResult<Value>, shape: Shape) -> String {
    match (reply, shape) {
        (Err(error), _) => format!("error {error}"),
        (Ok(_), Shape::Any) => "some reply".to_owned(),
        (Ok(Value::Array(members) | Value::Set(members)), Shape::Unordered) => {
            let mut members: Vec<_> = members.iter().map(|member| format!("{member:?}")).collect();
            members.sort();
            format!("{members:?}")
        }
        (Ok(value), Shape::Exact | Shape::Unordered) => format!("{value:?}"),
    }
}
