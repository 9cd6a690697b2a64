//! The checker on histories made by hand: it accepts each that can be true, and says of each other what is wrong.

use super::super::history::{Asked, COUNT_SPACING, Event, Heard, History};
use super::{Held, Wrong, check};
use std::time::Duration;

const CLIENT: u64 = 7;
const BASE: u64 = CLIENT * COUNT_SPACING;

/// What is wrong with a history, given the ids in the list, what was counted, and the id of the text.
fn wrongs(events: &[(Asked, Heard)], list: &[u64], counted: u64, text: u64) -> Vec<Wrong> {
    let event = |(asked, heard): &(Asked, Heard)| Event {
        asked: *asked,
        heard: heard.clone(),
        took: Duration::ZERO,
        is_calm: false,
    };
    let events = events.iter().map(event).collect();
    let history = History { client: CLIENT, events, is_whole: false };
    let list = list.iter().map(|id| entry(*id)).collect();
    let held = Held { list, count: BASE + counted, text: entry(text) };
    check(&history, &held).iter().map(|complaint| complaint.wrong).collect()
}

fn entry(id: u64) -> String {
    format!("{CLIENT}:{id}")
}

fn of_list(events: &[(Asked, Heard)], list: &[u64]) -> Vec<Wrong> {
    wrongs(events, list, 0, 0)
}

fn appended(id: u64, number: u64) -> (Asked, Heard) {
    (Asked::Append(id), Heard::Number(number))
}

fn saw(ids: &[u64]) -> (Asked, Heard) {
    (Asked::ReadList, Heard::Texts(ids.iter().map(|id| entry(*id)).collect()))
}

fn counted(number: u64) -> (Asked, Heard) {
    (Asked::Count, Heard::Number(BASE + number))
}

const fn read_count(number: u64) -> (Asked, Heard) {
    (Asked::ReadCount, Heard::Number(BASE + number))
}

fn read_text(id: u64) -> (Asked, Heard) {
    (Asked::ReadText, Heard::Text(entry(id)))
}

const fn open(asked: Asked) -> (Asked, Heard) {
    (asked, Heard::Indeterminate)
}

#[test]
fn what_can_be_true_is_accepted() {
    let refused = (Asked::Append(2), Heard::Unavailable);
    let nothing = (Asked::ReadList, Heard::Nothing);
    let events = [appended(1, 2), refused, open(Asked::Append(3)), nothing, appended(4, 4), saw(&[1, 3, 4])];
    assert_eq!(of_list(&events, &[0, 1, 3, 4]), []);
    assert_eq!(of_list(&[open(Asked::Append(1)), appended(2, 2)], &[0, 2]), []);
    assert_eq!(wrongs(&[counted(1), open(Asked::Count), counted(2)], &[0], 2, 0), []);
    assert_eq!(wrongs(&[counted(1), open(Asked::Count), counted(3)], &[0], 3, 0), []);
    assert_eq!(wrongs(&[open(Asked::Count)], &[0], 1, 0), []);
    assert_eq!(wrongs(&[open(Asked::Count), read_count(0)], &[0], 1, 0), [], "it may run after a read");
    let puts = [(Asked::Put(1), Heard::Done), open(Asked::Put(2))];
    assert_eq!(wrongs(&puts, &[0], 0, 1), []);
    assert_eq!(wrongs(&puts, &[0], 0, 2), []);
}

#[test]
fn a_write_that_ran_twice_is_seen() {
    assert_eq!(of_list(&[appended(1, 2)], &[0, 1, 1]), [Wrong::Excess]);
    assert_eq!(of_list(&[open(Asked::Append(1))], &[0, 1, 1]), [Wrong::Excess]);
    assert_eq!(wrongs(&[counted(1), counted(3)], &[0], 3, 0), [Wrong::Excess]);
    assert_eq!(wrongs(&[counted(1)], &[0], 2, 0), [Wrong::Excess]);
    assert_eq!(wrongs(&[open(Asked::Count)], &[0], 2, 0), [Wrong::Excess]);
}

#[test]
fn a_write_that_was_not_sent_and_ran_is_seen() {
    assert_eq!(of_list(&[(Asked::Append(1), Heard::Unavailable)], &[0, 1]), [Wrong::Excess]);
    assert_eq!(wrongs(&[(Asked::Count, Heard::Unavailable)], &[0], 1, 0), [Wrong::Excess]);
    assert_eq!(wrongs(&[(Asked::Put(1), Heard::Unavailable)], &[0], 0, 1), [Wrong::Excess]);
}

#[test]
fn a_write_that_was_acknowledged_and_is_not_there_is_seen() {
    assert_eq!(of_list(&[appended(1, 2)], &[0]), [Wrong::Lost]);
    assert_eq!(wrongs(&[counted(1)], &[0], 0, 0), [Wrong::Lost]);
    assert_eq!(wrongs(&[counted(1), counted(1)], &[0], 2, 0)[0], Wrong::Lost);
    assert_eq!(wrongs(&[(Asked::Put(1), Heard::Done)], &[0], 0, 0), [Wrong::Order]);
    assert_eq!(of_list(&[appended(1, 2), saw(&[0])], &[0, 1]), [Wrong::Lost], "a read before it");
}

#[test]
fn a_write_that_ran_late_is_seen() {
    assert_eq!(of_list(&[open(Asked::Append(1)), appended(2, 2)], &[0, 2, 1]), [Wrong::Order]);
    assert_eq!(wrongs(&[open(Asked::Count), counted(1), counted(3)], &[0], 3, 0), [Wrong::Excess]);
    assert_eq!(wrongs(&[open(Asked::Count), counted(1)], &[0], 2, 0), [Wrong::Excess]);
    assert_eq!(wrongs(&[open(Asked::Put(1)), (Asked::Put(2), Heard::Done)], &[0], 0, 1), [Wrong::Order]);
}

#[test]
fn a_write_that_ran_behind_one_of_another_kind_is_seen() {
    let others = [counted(1), (Asked::Put(2), Heard::Done)];
    for other in others {
        let (number, text) = if other.0 == Asked::Count { (1, 0) } else { (0, 2) };
        let events = [open(Asked::Append(1)), other, saw(&[0]), appended(3, 3)];
        assert_eq!(wrongs(&events, &[0, 1, 3], number, text), [Wrong::Order]);
    }
    let late_count = [open(Asked::Count), appended(1, 2), read_count(0)];
    assert_eq!(wrongs(&late_count, &[0, 1], 1, 0), [Wrong::Excess]);
    let one_of_two = [open(Asked::Count), appended(1, 2), open(Asked::Count), read_count(1)];
    assert_eq!(wrongs(&one_of_two, &[0, 1], 3, 0), [Wrong::Excess]);
    let late_put = [open(Asked::Put(1)), counted(1), read_text(0)];
    assert_eq!(wrongs(&late_put, &[0], 1, 1), [Wrong::Order]);
    let later_of_two = [open(Asked::Put(1)), open(Asked::Put(2)), counted(1), read_text(1)];
    assert_eq!(wrongs(&later_of_two, &[0], 1, 2), [Wrong::Order]);
}

#[test]
fn a_write_that_ran_before_one_of_another_kind_is_accepted() {
    // It ran before the other, whatever a read before that lacked.
    let unread = [open(Asked::Append(1)), saw(&[0]), counted(1), appended(2, 3)];
    assert_eq!(wrongs(&unread, &[0, 1, 2], 1, 0), []);
    let seen = [open(Asked::Append(1)), counted(1), saw(&[0, 1]), saw(&[0, 1]), appended(2, 3)];
    assert_eq!(wrongs(&seen, &[0, 1, 2], 1, 0), []);
    let never = [open(Asked::Append(1)), counted(1), saw(&[0]), appended(2, 2)];
    assert_eq!(wrongs(&never, &[0, 2], 1, 0), []);
    let unanswered = [open(Asked::Append(1)), counted(1), (Asked::ReadList, Heard::Nothing), appended(2, 3)];
    assert_eq!(wrongs(&unanswered, &[0, 1, 2], 1, 0), []);
    // Asked for behind the other, or the other was not acknowledged.
    let behind = [counted(1), open(Asked::Append(1)), saw(&[0])];
    assert_eq!(wrongs(&behind, &[0, 1], 1, 0), []);
    let unacknowledged = [open(Asked::Append(1)), open(Asked::Count), (Asked::Put(2), Heard::Unavailable), saw(&[0])];
    assert_eq!(wrongs(&unacknowledged, &[0, 1], 1, 0), []);
}

#[test]
fn a_count_that_ran_before_one_of_another_kind_is_accepted() {
    assert_eq!(wrongs(&[open(Asked::Count), read_count(0), appended(1, 2)], &[0, 1], 1, 0), []);
    assert_eq!(wrongs(&[open(Asked::Count), appended(1, 2), read_count(1)], &[0, 1], 1, 0), []);
    assert_eq!(wrongs(&[appended(1, 2), open(Asked::Count), read_count(0)], &[0, 1], 1, 0), []);
    // The one that was seen may be the former: the latter may still run.
    let two = [open(Asked::Count), appended(1, 2), open(Asked::Count), read_count(1), read_count(2)];
    assert_eq!(wrongs(&two, &[0, 1], 2, 0), []);
    assert_eq!(wrongs(&two[..4], &[0, 1], 2, 0), []);
}

#[test]
fn a_text_put_before_one_of_another_kind_is_accepted() {
    assert_eq!(wrongs(&[open(Asked::Put(1)), read_text(0), counted(1)], &[0], 1, 1), []);
    assert_eq!(wrongs(&[open(Asked::Put(1)), counted(1), read_text(1), read_text(1)], &[0], 1, 1), []);
    assert_eq!(wrongs(&[counted(1), open(Asked::Put(1)), read_text(0)], &[0], 1, 1), []);
    assert_eq!(wrongs(&[open(Asked::Put(1)), counted(1), read_text(0), open(Asked::Put(2))], &[0], 1, 2), []);
}

#[test]
fn anothers_value_is_seen() {
    assert_eq!(of_list(&[(Asked::ReadList, Heard::Texts(vec!["8:0".into()]))], &[0])[0], Wrong::Foreign);
    assert_eq!(of_list(&[(Asked::ReadText, Heard::Text("8:0".into()))], &[0]), [Wrong::Foreign]);
    assert_eq!(of_list(&[(Asked::Count, Heard::Number(8 * COUNT_SPACING))], &[0]), [Wrong::Foreign, Wrong::Lost]);
    assert_eq!(of_list(&[appended(1, 9)], &[0, 1]), [Wrong::Foreign]);
    assert_eq!(of_list(&[], &[0, 5]), [Wrong::Foreign], "nobody asked for it");
}

#[test]
fn a_value_out_of_the_future_is_seen() {
    assert_eq!(of_list(&[saw(&[0, 1]), appended(1, 2)], &[0, 1]), [Wrong::Order]);
    assert_eq!(wrongs(&[read_text(1), (Asked::Put(1), Heard::Done)], &[0], 0, 1), [Wrong::Order]);
}

#[test]
fn a_reply_of_the_wrong_kind_is_seen() {
    let strange = || Heard::Strange("-LOADING".into());
    assert_eq!(of_list(&[(Asked::ReadFixed, strange())], &[0]), [Wrong::Strange]);
    assert_eq!(of_list(&[(Asked::Put(1), strange())], &[0]), [Wrong::Strange]);
    assert_eq!(of_list(&[(Asked::ReadText, Heard::Unavailable)], &[0]), [Wrong::Strange]);
}

#[test]
fn nothing_is_no_answer_while_redis_is_well() {
    let event = Event { asked: Asked::ReadText, heard: Heard::Nothing, took: Duration::ZERO, is_calm: true };
    let history = History { client: CLIENT, events: vec![event], is_whole: false };
    let complaints = check(&history, &Held::at_first(CLIENT));
    assert_eq!(complaints.iter().map(|complaint| complaint.wrong).collect::<Vec<_>>(), [Wrong::Lost]);
}

#[test]
fn a_transaction_that_ran_in_part_is_wrong() {
    let events = [Asked::Count, Asked::Append(1)].map(|asked| Event {
        asked,
        heard: Heard::Indeterminate,
        took: Duration::ZERO,
        is_calm: false,
    });
    let history = History { client: CLIENT, events: events.to_vec(), is_whole: true };
    let wrongs = |list: &[u64], counted: u64| {
        let list = list.iter().map(|id| entry(*id)).collect();
        check(&history, &Held { list, count: BASE + counted, text: entry(0) }).len()
    };
    assert_eq!([wrongs(&[0], 0), wrongs(&[0, 1], 1)], [0, 0]);
    assert_eq!([wrongs(&[0], 1), wrongs(&[0, 1], 0)], [1, 1]);
}
