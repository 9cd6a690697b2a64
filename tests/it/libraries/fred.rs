//! fred with its defaults: one client, a pool, pipelines.

use super::corpus::{COMMANDS, Shape, Transcript};
use super::{compare_sides, runtime};
use fred::prelude::*;
use fred::types::config::Config;
use fred::types::scan::Scanner;
use fred::types::{ClusterHash, CustomCommand, RespVersion};
use futures_util::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};

const TASKS: usize = 50;
const ROUNDS: usize = 40;
/// Just under the largest request that a shared connection takes.
const BIG: usize = 1_000_000;

#[test]
fn fred() {
    compare_sides("fred", |url| {
        runtime().block_on(async {
            let mut seen = Transcript::default();
            // RESP2 is the default.
            for version in [RespVersion::RESP2, RespVersion::RESP3] {
                let mut config = Config::from_url(url).expect("the URL is right");
                config.version = version;
                let client = Builder::from_config(config).build().expect("the configuration is right");
                let connecting = client.init().await.expect("the handshake succeeds");
                every_scenario(&client, &mut seen).await;
                client.quit().await.expect("QUIT is answered");
                connecting.await.expect("the connection's task ends well").expect("the connection ends well");
            }
            pool(url, &mut seen).await;
            databases(url, &mut seen).await;
            seen
        })
    });
}

/// All that a client can do; the library announces every reconnection and there must be none.
async fn every_scenario(client: &Client, seen: &mut Transcript) {
    let mut reconnections = client.reconnect_rx();
    let _: Value = send(client, "FLUSHALL").await.expect("the database is emptied");
    let id: i64 = send(client, "CLIENT ID").await.expect("an id");
    let server: BTreeMap<String, Value> = send(client, "HELLO").await.expect("HELLO is answered");
    let kept: Vec<_> = server
        .iter()
        .filter(|(name, _)| *name != "id")
        .map(|(name, value)| (name, render(Ok(value.clone()), Shape::Exact)))
        .collect();
    seen.record("HELLO", &format!("{kept:?}"));
    seen.record("version", &format!("{:?}", client.server_version()));
    for (shape, words) in COMMANDS {
        seen.record(words, &render(send(client, words).await, *shape));
    }
    let pipeline = client.pipeline();
    for (_, words) in COMMANDS {
        let (command, arguments) = parts(words);
        let _: () = pipeline.custom(command, arguments).await.expect("a pipeline only queues");
    }
    for ((shape, words), reply) in COMMANDS.iter().zip(pipeline.try_all().await) {
        seen.record(words, &render(reply, *shape));
    }
    typed(client, seen).await.expect("every typed call succeeds");
    tasks(client, seen).await;
    assert_eq!(id, send::<i64>(client, "CLIENT ID").await.expect("an id"), "the connection was replaced");
    assert!(reconnections.try_recv().is_err(), "the library reconnected");
}

/// Calls whose replies the library turns into types, big values, and iterators.
async fn typed(client: &Client, seen: &mut Transcript) -> FredResult<()> {
    let big: Vec<u8> = (0..=255).cycle().take(BIG).collect();
    let _: () = client.set("big", big.as_slice(), None, None, false).await?;
    let back: Vec<u8> = client.get::<Value, _>("big").await?.as_bytes().unwrap_or_default().to_vec();
    assert_eq!(back.len(), big.len(), "a big value comes back whole");
    assert!(back == big, "a big value comes back unchanged");
    let _: () = client.hset("typed:h", vec![("one", 1), ("two", 2)]).await?;
    let hash: BTreeMap<String, i64> = client.hgetall("typed:h").await?;
    seen.record("hgetall", &format!("{hash:?}"));
    let _: () = client.zadd("typed:z", None, None, false, false, vec![(1.5, "a"), (f64::INFINITY, "b")]).await?;
    let scores: Vec<(String, f64)> = client.zrange("typed:z", 0, -1, None, false, None, true).await?;
    seen.record("zrange", &format!("{scores:?}"));
    let fill = client.pipeline();
    for i in 0..1_000 {
        let _: () = fill.set(format!("scan:{i}"), i, None, None, false).await?;
    }
    let _: Vec<Value> = fill.all().await?;
    let mut found = BTreeSet::new();
    let mut pages = Box::pin(client.scan("scan:*", Some(50), None));
    while let Some(mut page) = pages.try_next().await? {
        found.extend(page.take_results().unwrap_or_default().into_iter().map(|key| format!("{key:?}")));
        page.next();
    }
    seen.record("scan", &format!("{found:?}"));
    Ok(())
}

/// Fifty tasks on one client; each knows which replies are its own.
async fn tasks<C>(client: &C, seen: &mut Transcript)
where
    C: KeysInterface + Clone + Send + Sync + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let client = client.clone();
        running.spawn(async move {
            for round in 0..ROUNDS {
                let (key, value) = (format!("{task}:{round}"), format!("value {task} {round}"));
                let _: () = client.set(&key, &value, None, None, false).await.expect("it is stored");
                let back: String = client.get(&key).await.expect("a value is there");
                assert_eq!(back, value, "the reply is another request's");
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("no task fails");
    }
    seen.record("tasks", &format!("{}", TASKS * ROUNDS));
}

async fn pool(url: &str, seen: &mut Transcript) {
    let config = Config::from_url(url).expect("the URL is right");
    let pool = Builder::from_config(config).build_pool(5).expect("the configuration is right");
    pool.init().await.expect("the handshakes succeed");
    tasks(&pool, seen).await;
    pool.quit().await.expect("QUIT is answered");
}

/// Clients of four databases at once: none sees another's keys.
async fn databases(url: &str, seen: &mut Transcript) {
    for database in [0, 1, 3, 15] {
        let config = Config::from_url(&format!("{url}/{database}")).expect("the URL is right");
        let client = Builder::from_config(config).build().expect("the configuration is right");
        client.init().await.expect("the handshake succeeds");
        let _: () = client.set(format!("only:{database}"), database, None, None, false).await.expect("it is stored");
        seen.record("keys of a database", &render(send(&client, "KEYS only:*").await, Shape::Unordered));
        client.quit().await.expect("QUIT is answered");
    }
}

async fn send<R: FromValue>(client: &Client, words: &'static str) -> FredResult<R> {
    let (command, arguments) = parts(words);
    client.custom(command, arguments).await
}

fn parts(words: &'static str) -> (CustomCommand, Vec<String>) {
    let mut words = words.split(' ');
    let name = words.next().expect("a command has a name");
    (CustomCommand::new_static(name, ClusterHash::FirstKey, false), words.map(ToOwned::to_owned).collect())
}

fn render(reply: FredResult<Value>, shape: Shape) -> String {
    match (reply, shape) {
        (Err(error), _) => format!("error {error}"),
        (Ok(_), Shape::Any) => "some reply".to_owned(),
        (Ok(value), _) => text(value, shape == Shape::Unordered),
    }
}

/// The library keeps maps in a hash table of its own, whose order means nothing.
fn text(value: Value, unordered: bool) -> String {
    match value {
        Value::Map(map) => {
            let fields = map.inner().into_iter().map(|(name, value)| (format!("{name:?}"), text(value, unordered)));
            format!("{:?}", fields.collect::<BTreeMap<_, _>>())
        }
        Value::Array(members) => {
            let mut members: Vec<_> = members.into_iter().map(|member| text(member, unordered)).collect();
            if unordered {
                members.sort();
            }
            format!("{members:?}")
        }
        other => format!("{other:?}"),
    }
}
