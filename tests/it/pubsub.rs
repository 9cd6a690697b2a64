//! Publish and subscribe: what subscribers get, byte for byte; what becomes of many, of slow ones, and of all when their
//! upstream connection is lost; and that it is one connection, however many they are.

mod churn;
mod crowd;
mod direct;
mod loss;
mod random;
mod scripted;
mod sharing;

use crate::support::{Client, PATIENCE, Server, command, wait_until, words};

/// Frames of a stage: `subscribe` to a topic with the count, as an array.
fn ack(verb: &str, topic: &str, count: usize) -> String {
    format!("*3\r\n${}\r\n{verb}\r\n${}\r\n{topic}\r\n:{count}\r\n", verb.len(), topic.len())
}

/// A message of a channel, as an array.
fn message(channel: &str, text: &str) -> Vec<u8> {
    command(&["message", channel, text])
}

/// The same as a push.
fn push(mut array: Vec<u8>) -> Vec<u8> {
    array[0] = b'>';
    array
}

/// Subscribes to one channel as the first.
fn subscribe(client: &mut Client, channel: &str) {
    assert_eq!(shown(&client.ask(&format!("SUBSCRIBE {channel}"))), shown(ack("subscribe", channel, 1).as_bytes()));
}

/// Fails unless nothing waits for this client, which is subscribed in RESP2: a pong comes behind all messages.
fn assert_quiet(client: &mut Client) {
    assert_eq!(shown(&client.ask("PING")), shown(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"));
}

/// Waits until the server counts so many subscribers of a channel: connections of ours, not clients.
fn wait_for_subscribers(server: &Server, channel: &str, count: usize) {
    let mut admin = server.connect();
    let expected = format!("*2\r\n${}\r\n{channel}\r\n:{count}\r\n", channel.len());
    wait_until(&format!("{count} connections hear {channel}"), PATIENCE, || {
        admin.ask(&format!("PUBSUB NUMSUB {channel}")) == expected.as_bytes()
    });
}

/// Publishes at the server itself, and makes sure that the message has left it.
fn publish(publisher: &mut Client, channel: &str, text: &str) {
    let replies = publisher.pipeline(&[command(&["PUBLISH", channel, text])]);
    assert_eq!(replies[0][0], b':');
    assert_eq!(publisher.pipeline(&[words("PING")]), [b"+PONG\r\n"]);
}

/// Bytes, fit for a message.
fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(400)].escape_ascii().to_string()
}
