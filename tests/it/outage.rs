//! Redis fails in every way we know, under load: its clients must be answered in time and truly, nothing may run twice, and
//! service must return by itself, without a storm.
//!
//! - [`at_most_once`], [`faults`], [`planted`]: a [`crowd`] keeps a [`history`] of what it asked and heard; the [`checker`]
//!   tells whether that can be true together with what the server holds in the end; a [`stage`] is all parts of such a test.
//! - [`readers`], [`libraries`], [`time`], [`slow`]: what clients see of an outage, and for how long.
//! - [`switches`]: what operators may change of it. [`told`]: what the log says of it.
//! - [`storm`], [`names`]: how Redis is found again: two hundred sidecars in a [`network`] of their own, with [`polls`] for
//!   clients; every packet of [`dials`] is seen, and the name is told by a [`resolver`].

mod at_most_once;
mod checker;
mod crowd;
mod dials;
mod faults;
mod history;
mod libraries;
mod names;
pub mod network;
mod planted;
mod polls;
mod readers;
mod resolver;
mod slow;
mod stage;
mod storm;
mod switches;
mod time;
mod told;
