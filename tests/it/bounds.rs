//! Everything has a bound: upstream connections, clients, unread replies, memory, waiting. And at each bound everybody else
//! is still served.

mod arrival;
mod backpressure;
mod doors;
mod memory;
mod outage;
mod pool;
